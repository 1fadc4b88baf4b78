"""Streams: an unfold that makes one round after the other when asked, and where their results are kept."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from itertools import takewhile
from typing import Any, Protocol, final, runtime_checkable

import attrs

from fprune.config import Config
from fprune.errors import FpruneError, FpruneWarning, ScheduleError, StageError
from fprune.isolation import isolated, settings, under
from fprune.records import Goal, Report, TaskResult
from fprune.shrinking import refuse_less

NextGoal = Callable[[Config, Sequence[Report]], Goal | None]
Step = Callable[[TaskResult], TaskResult]

_IN_FLIGHT = 64
"""How many rounds an executor is given at a time: their results wait in memory."""


class Session(Protocol):
    """A run that is being kept, from when it is opened until its iteration ends."""

    @property
    def latest(self) -> TaskResult | None:
        """The last result that was committed before; None when there is none."""
        ...

    def result(self, index: int) -> TaskResult | None:
        """The committed result of a round; None when it is not kept any more."""
        ...

    def ready(self) -> None:
        """Called before each round; raises when its result could not be kept."""
        ...

    def commit(self, result: TaskResult, best: int) -> None:
        """Keep a result; called after each round, before the next one begins.

        Args:
            result: the result.
            best: the round whose result the run would return if it ended here.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """Where a run keeps its results, so that it survives the process."""

    def writing(self, start: TaskResult, name: str) -> AbstractContextManager[Session]:
        """Open a run for writing.

        Args:
            start: the state the run begins with.
            name: the pipeline, as it is written.
        """
        ...


@final
@attrs.frozen
class _Unkept:
    """The session of a run that keeps nothing."""

    latest: TaskResult | None = None

    def result(self, index: int) -> TaskResult | None:
        """Nothing was kept."""

    def ready(self) -> None:
        """There is always room for nothing."""

    def commit(self, result: TaskResult, best: int) -> None:
        """Keep nothing."""


@final
@attrs.frozen
class Best:
    """The best of some rounds, of equal ones the later; and the one that was the best before it.

    Args:
        fn: a rule of the caller's own, as `run` takes it.
        index: the best round; -1 when there is none.
        before: the round that was the best until that one; -1 when there is none.
        value: its rank.
    """

    fn: Callable[[Report], Any] | None
    index: int = -1
    before: int = -1
    value: tuple[Any, ...] = ()

    def after(self, report: Report) -> "Best":
        """The best when one more round has run."""
        value = _rank(report, self.fn)
        return Best(self.fn, report.index, self.index, value) if self.index < 0 or value >= self.value else self


@final
@attrs.frozen(eq=False, repr=False)
class Stream(Iterable[TaskResult]):
    """The rounds of a run, made one by one while they are iterated, and anew each time.

    Nothing runs until an item is asked for, and asking for `k` items runs exactly `k` rounds.

    Examples:
        >>> import torch
        >>> from fprune.records import Goal
        >>> start = TaskResult.start(torch.nn.Linear(2, 2), 0.5)
        >>> goals = [Goal(0.25), Goal(0.5, final=True)]
        >>> stream = Stream(lambda target, reports: dict(enumerate(goals)).get(len(reports)), lambda r: r, start)
        >>> [result.goal for result in stream]
        [Goal(Config(0.25)), Goal(Config(0.5), final=True)]

    Args:
        next_goal: the goal that follows some reports, a pure function; None ends the run.
        step: makes a round's result from its beginning.
        start: the state to go on from.
        name: what the stream runs, for its `repr`.
        entry: the state of a round whose goal starts from the origin; by default the run's own origin.
        store: where results are kept; a run that is in the store goes on from its last result.
        best: which result of a run is the best, where the default rule is not meant; the store keeps that one.
        executor: where rounds that do not depend on each other run; here, one by one, when there is none.
        ahead: the goals known after some reports without looking at later ones; for the executor.
        stopped: whether a condition ended the schedule after some reports.
    """

    next_goal: NextGoal
    step: Step
    start: TaskResult
    name: str = "..."
    entry: TaskResult | None = attrs.field(default=None, kw_only=True)
    store: Store | None = attrs.field(default=None, kw_only=True)
    best: Callable[[Report], Any] | None = attrs.field(default=None, kw_only=True)
    executor: Executor | None = attrs.field(default=None, kw_only=True)
    ahead: Callable[[Config, Sequence[Report]], Sequence[Goal]] | None = attrs.field(default=None, kw_only=True)
    stopped: Callable[[Config, Sequence[Report]], bool] | None = attrs.field(default=None, kw_only=True)

    def __iter__(self) -> Iterator[TaskResult]:
        with self.opened() as session:
            yield from self.after(session.latest or self.start, session)

    def opened(self) -> AbstractContextManager[Session]:
        """The run, where it is kept."""
        return nullcontext(_Unkept()) if self.store is None else self.store.writing(self.start, self.name)

    def after(self, state: TaskResult, session: Session) -> Iterator[TaskResult]:
        """The rounds that follow a state."""
        look = 0  # a schedule that reads every report is not asked again and again what it knows without
        past = reports(state)
        rank = self.best_of(past)
        while (goal := self.next_goal(state.task.target, past)) is not None:
            session.ready()
            goals = self._independent(goal, state, past) if state.index + 1 >= look else [goal]
            look = 2 * (state.index + 2) if len(goals) == 1 else 0
            if self.executor is not None and len(goals) > 1:
                made = self._together(self.executor, state, past, goals)
            else:
                made = self._one(state, past, goal)
            for result in made:
                # Nothing here holds on to a result once the next is made, so that a run holds two rounds and not three.
                state = result
                past = (*past, state.report)
                rank = rank.after(past[-1])
                session.commit(state, rank.index)
                yield state

    def best_of(self, past: Sequence[Report]) -> "Best":
        """The best of the rounds that this run has made, or has been given to go on from."""
        return reduce(Best.after, (report for report in past if report.index >= self.start.index), Best(self.best))

    def _independent(self, goal: Goal, state: TaskResult, past: Sequence[Report]) -> list[Goal]:
        """The next goal, and those after it which can run at the same time."""
        if goal.start == "previous" or self.ahead is None or self.executor is None:
            return [goal]
        known = self.ahead(state.task.target, past)
        return list(takewhile(lambda other: other.start == "origin", known))

    def _one(self, state: TaskResult, past: tuple[Report, ...], goal: Goal) -> Generator[TaskResult]:
        """The result of one round."""
        yield _finished(self.step(self._begun(state, goal, state.index + 1)), past)

    def _together(
        self, executor: Executor, state: TaskResult, past: tuple[Report, ...], goals: Sequence[Goal]
    ) -> Generator[TaskResult]:
        """The results of rounds that do not depend on each other, in their order."""
        waiting = deque(enumerate(goals, state.index + 1))
        running: deque[Future[TaskResult]] = deque()
        first = len(past)
        try:
            while waiting or running:
                while waiting and len(running) < _IN_FLIGHT:
                    index, goal = waiting.popleft()
                    begun = self._begun(state, goal, index)
                    with _named(index):
                        running.append(executor.submit(_elsewhere, self.step, begun, settings()))
                with _named(state.index + 1 + len(past) - first):
                    done = running.popleft().result()
                result = _finished(done, past)
                past = (*past, result.report)
                yield result
        finally:
            for future in running:
                future.cancel()

    def _begun(self, state: TaskResult, goal: Goal, index: int) -> TaskResult:
        """A round before its first stage; one that starts from the origin does not see the rounds before it."""
        if goal.start == "previous":
            if state.index >= 0:
                refuse_less(goal, state.goal, state.origin, index, self.name)
            return state.next(goal)
        begun, entry = state.next(goal), self.entry
        fields = () if entry is None else ("model", "masks", "lineage", "structure")
        entered: dict[str, Any] = {field: getattr(entry, field) for field in fields}
        task = attrs.evolve(begun.task, index=index, **entered)
        carried = begun.carried if entry is None else entry.carried
        return begun.replace(task=task, history=(), carried=carried, **entered)

    def __repr__(self) -> str:
        return f"Stream({self.name}, {self.start.model!r}, from round {self.start.index + 1})"

    def _repr_html_(self) -> str:
        return f"<code>{repr(self).replace('&', '&amp;').replace('<', '&lt;')}</code>"


def _finished(result: TaskResult, history: tuple[Report, ...]) -> TaskResult:
    """A round's result as it is handed on: it does not keep alive the state that the round began with."""
    now = {field: getattr(result, field) for field in ("model", "masks", "lineage", "structure")}
    return result.replace(history=history, task=attrs.evolve(result.task, **now))


@contextmanager
def _named(index: int) -> Generator[None]:
    """Name the round in what an executor raises; errors of the round itself come as they are."""
    try:
        yield
    except (FpruneError, FpruneWarning):
        raise
    except Exception as error:
        raise StageError(
            f"round {index}: the executor failed: {type(error).__name__}: {error}",
            hint="the rounds before it are kept: go on from the last one, pipeline.stream(result, executor=new), or "
            "with the same store; a worker dies when memory runs out, and takes only functions that can be pickled",
        ) from error


def _elsewhere(step: Step, begun: TaskResult, here: tuple[Any, ...]) -> TaskResult:
    """Make a round's result in a worker, under the settings of the process that asks for it."""
    with under(here):
        return step(begun)


def reports(state: TaskResult) -> tuple[Report, ...]:
    """What schedules may see of a state: a report for each round that has run."""
    return (*state.history, state.report) if state.index >= 0 else ()


def _rank(report: Report, best: Callable[[Report], Any] | None) -> tuple[Any, ...]:
    if best is not None:
        with isolated():
            value = best(report)
        if value != value:
            raise ScheduleError(
                f"best: nan for round {report.index}, which is neither more nor less than another value",
                hint="return None for a round that should not win",
            )
        return (False,) if value is None else (True, value)
    final, score = report.goal.final, report.score
    return final, final and score is not None, score if final and score is not None else 0.0
