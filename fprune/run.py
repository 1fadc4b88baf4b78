"""Running: an unfold that makes one round after the other when asked, and the fold that keeps one of them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import chain, takewhile
from typing import Any, Protocol, final, runtime_checkable

import attrs

from fprune.config import Config
from fprune.errors import FpruneError, FpruneWarning, ScheduleError, StageError
from fprune.fields import BUDGETS
from fprune.isolation import settings, under
from fprune.model import Model
from fprune.records import Goal, Report, TaskResult

NextGoal = Callable[[Config, Sequence[Report]], Goal | None]
Step = Callable[[TaskResult], TaskResult]

_IN_FLIGHT = 64
"""How many rounds an executor is given at a time: their results wait in memory."""


@runtime_checkable
class Store(Protocol):
    """Where a run keeps its results, so that it survives the process."""

    def latest(self, start: TaskResult) -> TaskResult | None:
        """The last committed result of the run that began with `start`; None when there is none."""
        ...

    def commit(self, result: TaskResult) -> None:
        """Keep a result; called after each round, before the next one begins."""
        ...


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
        >>> run(stream).index
        1

    Args:
        next_goal: the goal that follows some reports, a pure function; None ends the run.
        step: makes a round's result from its beginning.
        start: the state to go on from.
        name: what the stream runs, for its `repr`.
        entry: the state of a round whose goal starts from the origin; by default the run's own origin.
        store: where results are kept; a run that is in the store goes on from its last result.
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
    executor: Executor | None = attrs.field(default=None, kw_only=True)
    ahead: Callable[[Config, Sequence[Report]], Sequence[Goal]] | None = attrs.field(default=None, kw_only=True)
    stopped: Callable[[Config, Sequence[Report]], bool] | None = attrs.field(default=None, kw_only=True)

    def __iter__(self) -> Iterator[TaskResult]:
        return self.after(self.beginning())

    def beginning(self) -> TaskResult:
        """The state the next round follows: the last one in the store, else the start."""
        stored = None if self.store is None else self.store.latest(self.start)
        return self.start if stored is None else stored

    def after(self, state: TaskResult) -> Iterator[TaskResult]:
        """The rounds that follow a state."""
        look = 0  # a schedule that reads every report is not asked again and again what it knows without
        while (goal := self.next_goal(state.task.target, reports(state))) is not None:
            goals = self._independent(goal, state) if state.index + 1 >= look else [goal]
            look = 2 * (state.index + 2) if len(goals) == 1 else 0
            if len(goals) > 1 and self.executor is not None:
                for result in self._together(self.executor, state, goals):
                    yield self._committed(result)
                    state = result
                continue
            # One name for the state, so that a run holds two rounds and not three.
            state = self.step(self._begun(state, goal, state.index + 1)).replace(history=reports(state))
            yield self._committed(state)

    def _committed(self, result: TaskResult) -> TaskResult:
        if self.store is not None:
            self.store.commit(result)
        return result

    def _independent(self, goal: Goal, state: TaskResult) -> list[Goal]:
        """The next goal, and those after it which can run at the same time."""
        if goal.start == "previous" or self.ahead is None or self.executor is None:
            return [goal]
        known = self.ahead(state.task.target, reports(state))
        return list(takewhile(lambda other: other.start == "origin", known))

    def _together(self, executor: Executor, state: TaskResult, goals: Sequence[Goal]) -> Generator[TaskResult]:
        """The results of rounds that do not depend on each other, in their order."""
        waiting = deque(enumerate(goals, state.index + 1))
        running: deque[Future[TaskResult]] = deque()
        before = state
        try:
            while waiting or running:
                while waiting and len(running) < _IN_FLIGHT:
                    index, goal = waiting.popleft()
                    begun = self._begun(before, goal, index)
                    with _named(index):
                        running.append(executor.submit(_elsewhere, self.step, begun, settings()))
                with _named(state.index + 1):
                    done = running.popleft().result()
                state = done.replace(history=reports(state))
                yield state
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
        return begun.replace(task=task, history=(), **entered)

    def __repr__(self) -> str:
        return f"Stream({self.name}, {self.start.model!r}, from round {self.start.index + 1})"

    def _repr_html_(self) -> str:
        return f"<code>{repr(self).replace('&', '&amp;').replace('<', '&lt;')}</code>"


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


def run(
    stream: Stream, *, best: Callable[[Report], Any] | None = None, keep_intermediate_result: bool = False
) -> TaskResult:
    """Run all rounds and return the best: the final goal with the best score.

    Among results whose goal is `final`, the one with the highest score, else the last of them; when no goal is final,
    the last result, or the one before it if the last fulfilled the condition of `until`. Of equal scores the later
    counts. A stream that goes on from a result, given or stored, compares that one too, and not the ones before it.

    Args:
        stream: the rounds.
        best: another rule: a function of a report whose largest value wins; None for a result that is returned only
            if there is no other.
        keep_intermediate_result: keep the results of all rounds in the result's `intermediate`.

    Returns:
        One of the results.

    Raises:
        ScheduleError: there was no round to run.
    """
    beginning = stream.beginning()
    every, kept, before, last = list[TaskResult](), None, None, None
    for result in chain([beginning] if beginning.index >= 0 else [], stream.after(beginning)):
        rank = _rank(result, best)
        if kept is None or rank >= kept[0]:
            kept, before = (rank, result), kept
        last = result
        every += [result] if keep_intermediate_result else []
    if kept is None or last is None:
        raise ScheduleError(f"{stream.name}: the schedule has no goal", hint="a schedule yields at least one Goal")
    found = kept[1]
    if best is None and before is not None and found is last and not found.goal.final and _ended(stream, found):
        found = before[1]
    return found.replace(intermediate=tuple(every)) if every else found


def _ended(stream: Stream, last: TaskResult) -> bool:
    return stream.stopped is not None and stream.stopped(last.task.target, reports(last))


def _rank(result: TaskResult, best: Callable[[Report], Any] | None) -> tuple[Any, ...]:
    if best is not None:
        value = best(result.report)
        if value != value:
            raise ScheduleError(
                f"best: nan for round {result.index}, which is neither more nor less than another value",
                hint="return None for a round that should not win",
            )
        return (False,) if value is None else (True, value)
    final, score = result.goal.final, result.score
    return final, final and score is not None, score if final and score is not None else 0.0


def same_selectors(a: Config, b: Config) -> bool:
    """Whether two configs differ in their amounts only.

    Examples:
        >>> same_selectors(Config(0.2), Config(0.8)), same_selectors(Config(0.2), Config({"total_sparsity": 0.2}))
        (True, False)
    """
    return a.map(lambda _: 0.0) == b.map(lambda _: 0.0)


def refuse_less(goal: Goal, reached: Goal, origin: Model, position: int, name: str) -> None:
    """Refuse a goal that asks for less than the round before it, whose state it would go on from.

    Configs with equal selectors are compared rule by rule, others by the fraction they remove of the whole model;
    a budget cannot be told as such a fraction, so there the rounds themselves decide.

    Raises:
        ScheduleError: it asks for less; masks only shrink, so it could not be met.
    """
    if goal.config == reached.config:
        return
    if same_selectors(goal.config, reached.config):
        pairs = zip(goal.config.rules, reached.config.rules, strict=True)
        several = len(goal.config.rules) > 1
        found = [
            (f"rule {rule}: " if several else "", key, part, old.amounts[key], 1e-9)
            for rule, (new, old) in enumerate(pairs)
            for key, part in new.amounts.items()
        ]
    elif any(rule.budget is not None for rule in (*goal.config.rules, *reached.config.rules)):
        return
    else:
        found = [("", "", _asked(goal.config, origin), _asked(reached.config, origin), 1e-3)]
    for where, key, new, old, tolerance in found:
        if new < old - tolerance:
            raise ScheduleError(
                f"{name}, goal {position}: {where}asks for {key if key in BUDGETS else 'sparsity'} {new:.4g} after "
                f"{old:.4g}, and pruned weights do not come back",
                hint='let the goal begin anew: Goal(config, start="origin")',
            )


def _asked(config: Config, origin: Model) -> float:
    """The fraction of all elements of the selected layers, weighted over the whole model, that a config removes."""
    rows = config.resolve(origin).rows
    sizes = [origin[row.layer.weight].numel() for row in rows]
    asked = [row.sparsity if row.sparsity is not None else row.total or 0.0 for row in rows]
    return sum(n * s for n, s in zip(sizes, asked, strict=True)) / max(sum(sizes), 1)
