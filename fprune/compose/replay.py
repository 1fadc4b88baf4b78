"""Run a schedule's generator with the recorded reports, so that it is a function of history."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeAlias, cast, final

import attrs

from fprune.compose.call import Call, expression
from fprune.config import Config
from fprune.errors import FpruneError, ScheduleError
from fprune.isolation import isolated, seed_all
from fprune.records import Goal, Report
from fprune.setting import Setting

Goals = Generator[Goal, Report | None, object]
Stop = Callable[[Report], bool]

_MANY = 1000
"""A schedule that neither reads reports nor ends is followed this far."""


class _ReadsReports(BaseException):
    """A schedule looked at a report that does not exist yet; no Exception, so that no schedule swallows it."""


class _Unknown:
    """Stands for a report that does not exist yet: any look at it ends the foresight."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        raise _ReadsReports(name)

    def __bool__(self) -> bool:
        raise _ReadsReports("bool")

    def __eq__(self, other: object) -> bool:
        raise _ReadsReports("==")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class _Hoped(_Unknown):
    """Stands for a report that stops nothing."""

    __slots__ = ()


@final
@attrs.frozen
class Stopped:
    """Parts of a schedule, one after the other, that end when a report fulfils a condition."""

    parts: tuple["Part", ...]
    stop: Stop

    def __repr__(self) -> str:
        return f"{text(self.parts)}.until({expression(self.stop)})"


Part: TypeAlias = Call | Stopped


def text(parts: Sequence[Part]) -> str:
    """The expression that builds a schedule of these parts."""
    first, *others = map(repr, parts)
    return first + "".join(f".then({other})" for other in others)


def calls_of(parts: Sequence[Part]) -> tuple[Call, ...]:
    """Every call in some parts, in order."""
    return tuple(call for part in parts for call in (calls_of(part.parts) if isinstance(part, Stopped) else (part,)))


def may_stop(parts: Sequence[Part]) -> bool:
    """Whether a condition may end a part early."""
    return any(isinstance(part, Stopped) for part in parts)


def reads_setting(call: Call) -> bool:
    """Whether a schedule is told about the layers of the model."""
    return call.factory.leading == 2


def _begun(part: Part, target: Config, setting: Setting | None) -> Goals:
    if isinstance(part, Stopped):
        return _until(_chained(part.parts, target, setting), part.stop)
    if not reads_setting(part):
        return _sendable(part(target))
    if setting is None:
        raise ScheduleError(
            f"{part!r} looks at the layers of a model, and none is given",
            hint="run it in a pipeline, or pass setting=Setting.of(net, config)",
        )
    return _sendable(part(target, setting))


def _sendable(goals: Iterator[Goal]) -> Goals:
    """An iterator without `send` is one that reads no reports."""
    if isinstance(goals, Generator):
        return cast(Goals, goals)
    return _iterated(goals)


def _iterated(goals: Iterator[Goal]) -> Goals:
    for goal in goals:  # noqa: UP028  (`yield from` would hand on what is sent)
        yield goal


def _chained(parts: Sequence[Part], target: Config, setting: Setting | None) -> Goals:
    """The goals of some parts; returns whether a condition ended the last one."""
    stopped = False
    for part in parts:
        ended = yield from _begun(part, target, setting)
        stopped = isinstance(part, Stopped) and ended is True
    return stopped


def _until(goals: Goals, stop: Stop) -> Goals:
    report: Report | None = None
    while True:
        try:
            goal = goals.send(report)
        except StopIteration as end:
            return end.value
        report = yield goal
        if type(cast(object, report)) is not _Hoped and stop(cast(Report, report)):
            return True


class Play:
    """A schedule's generator, and the reports it has been sent."""

    def __init__(self, name: str, parts: Sequence[Part], target: Config, setting: Setting | None) -> None:
        """Begin from the start."""
        self.name, self.target = name, target
        self._goals = _chained(parts, target, setting)
        self._sent: list[Report] = []
        self._found: list[Goal | None] = []
        self._ends: list[object] = []

    @property
    def stopped(self) -> bool:
        """Whether it is over because of a condition."""
        return self._ends == [True]

    def follows(self, target: Config, reports: Sequence[Report]) -> bool:
        """Whether what it has been sent is the beginning of these reports."""
        enough = len(self._sent) <= len(reports) and self.target == target
        return enough and all(a is b or a == b for a, b in zip(self._sent, reports, strict=False))

    def goal(self, reports: Sequence[Report]) -> Goal | None:
        """The goal that follows the reports; None when there is none."""
        with isolated():
            if not self._found:
                self.advance(None)
            for report in reports[len(self._sent) :]:
                if self._found[-1] is not None:
                    self.advance(report)
        return self._found[-1]

    def advance(self, report: Report | None) -> Goal | None:
        """Send one report; call it inside `isolated()`."""
        position = len(self._found)
        if report is not None:
            self._sent.append(report)
        # A schedule is no place for chance of its own, but if it draws, it draws the same in every replay.
        seed_all(position)
        try:
            goal = _next(self.name, self._goals, position, report)
        except StopIteration as end:
            self._ends.append(end.value)
            goal = None
        self._found.append(goal)
        return goal


def _next(name: str, goals: Goals, position: int, report: Report | None) -> Goal:
    """The goal after a report; StopIteration when there is none."""
    try:
        goal = goals.send(report)
    except StopIteration:
        raise
    except FpruneError as error:
        error.add_note(f"in {name}, goal {position}")
        raise
    except Exception as error:
        raise ScheduleError(
            f"{name}, goal {position}: {type(error).__name__}: {error}",
            hint="a schedule is a generator: fn(target, *options) -> Iterator[Goal]; a report has a score only when "
            "the pipeline has evaluate(fn)",
        ) from error
    if not isinstance(goal, Goal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ScheduleError(
            f"{name}, goal {position}: yielded {goal!r}, expected a Goal", hint="yield Goal(target.scaled(fraction))"
        )
    return goal


class Live:
    """Asks a schedule for one goal after the other without beginning anew, as long as the reports go on."""

    def __init__(self, parts: Sequence[Part], setting: Setting | None) -> None:
        """Take the parts of a schedule."""
        self._parts, self._setting = tuple(parts), setting
        self._play: list[Play] = []

    def __call__(self, target: Config, reports: Sequence[Report]) -> Goal | None:
        """The goal that follows the reports; None when there is none."""
        play = self._play.pop() if self._play else None  # one that raises is not used again
        if play is None or not play.follows(target, reports):
            play = Play(text(self._parts), self._parts, target, self._setting)
        goal = play.goal(reports)
        self._play.append(play)
        return goal


def foreseen(
    parts: Sequence[Part],
    target: Config,
    reports: Sequence[Report],
    setting: Setting | None,
    *,
    hopeful: bool = False,
) -> tuple[list[Goal], bool]:
    """The goals known before their rounds run, up to the first look at a missing report; and whether these are all.

    A hopeful look passes over the conditions that may end a part.
    """
    found: list[Goal] = []
    play = Play(text(parts), parts, target, setting)
    missing = cast(Report, _Hoped() if hopeful else _Unknown())
    with isolated():
        try:
            goal = play.advance(None)
            while goal is not None and len(found) < _MANY:
                found.append(goal)
                goal = play.advance(reports[len(found) - 1] if len(found) <= len(reports) else missing)
        except _ReadsReports:
            return found, False
    return found, goal is None
