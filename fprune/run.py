"""Running: the fold over a stream that keeps one of its results."""

from collections.abc import Callable
from typing import Any

import attrs

from fprune.errors import CheckpointError, ScheduleError
from fprune.records import Report, TaskResult
from fprune.stream import Session, Stream, reports

__all__ = ["run"]


def run(
    stream: Stream, *, best: Callable[[Report], Any] | None = None, keep_intermediate_result: bool = False
) -> TaskResult:
    """Run all rounds and return the best: the final goal with the best score.

    Among results whose goal is `final`, the one with the highest score, else the last of them; when no goal is final,
    the last result, or the one before it if the last fulfilled the condition of `until`. Of equal scores the later
    counts. A stream that goes on from a result compares that one too, and not the ones before it; one that goes on in
    a store compares all of them, as if it had not been interrupted.

    Args:
        stream: the rounds.
        best: another rule: a function of a report whose largest value wins; None for a result that is returned only
            if there is no other.
        keep_intermediate_result: keep the results of all rounds in the result's `intermediate`; of a run that goes on
            in a store those that it still has.

    Returns:
        One of the results.

    Raises:
        ScheduleError: there was no round to run.
        CheckpointError: the best round of an earlier session is not in the store any more.
    """
    stream = attrs.evolve(stream, best=best)
    with stream.opened() as session:
        last = session.latest or stream.start
        rank = stream.best_of(reports(last))
        every = [] if not keep_intermediate_result else _kept(session, stream.start, last)
        kept, before = last if rank.index == last.index else None, None
        for result in stream.after(last, session):
            rank = rank.after(result.report)
            # What came before the last is asked for only where a condition may end the schedule.
            before = last if stream.stopped is not None else None
            kept = result if rank.index == result.index else kept
            last = result
            every += [result] if keep_intermediate_result else []
        if rank.index < 0:
            raise ScheduleError(f"{stream.name}: the schedule has no goal", hint="a schedule yields at least one Goal")
        index = rank.index
        if best is None and rank.before >= 0 and index == last.index and not last.goal.final and _ended(stream, last):
            index = rank.before
        found = next((r for r in (kept, before, stream.start) if r is not None and r.index == index), None)
        found = session.result(index) if found is None else found
        if found is None:
            raise CheckpointError(
                f"{stream.name}: round {index} is the best, and it is not kept any more",
                hint='keep every round: store=fprune.run_folder(path, keep="all")',
            )
        return found.replace(intermediate=tuple(every)) if every else found


def _kept(session: Session, start: TaskResult, last: TaskResult) -> list[TaskResult]:
    """The results of the rounds up to one, as far as they are to be had."""
    indices = range(start.index + 1, last.index)
    stored = [result for index in indices if (result := session.result(index)) is not None]
    return [*stored, last] if last.index >= 0 else stored


def _ended(stream: Stream, last: TaskResult) -> bool:
    return stream.stopped is not None and stream.stopped(last.task.target, reports(last))
