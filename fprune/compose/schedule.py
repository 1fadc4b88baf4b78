"""A schedule as an expression: lifted generators, one after the other, and the conditions that end them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs

from fprune.compose.call import Call
from fprune.compose.pipeline import Pipeline
from fprune.compose.refuse import kind_of, refusal
from fprune.compose.replay import Live, Part, Play, Stop, Stopped, calls_of, foreseen, may_stop, reads_setting, text
from fprune.compose.word import Stage
from fprune.config import Config
from fprune.errors import CompositionError
from fprune.records import Goal, Report
from fprune.setting import Setting


def _parts(parts: Part | Iterable[Part]) -> tuple[Part, ...]:
    found = (parts,) if isinstance(parts, Call | Stopped) else tuple(parts)
    for part in found:
        if not isinstance(part, Stopped) and getattr(part.factory, "lifts", None) != "schedule":
            raise CompositionError(f"Schedule: expected calls of schedules, found {part!r}", hint="lift it: @schedule")
    if not found:
        raise CompositionError("Schedule: expected at least one call", hint="one_shot() is the shortest schedule")
    return found


@final
@attrs.frozen(repr=False)
class Schedule:
    """What the rounds of a run should reach, one goal after the other; a pure function of the reports so far.

    Examples:
        >>> from fprune.compose import schedule
        >>> @schedule
        ... def fractions(target, *values: float):
        ...     for value in values:
        ...         yield Goal(target.scaled(value), final=value == 1)
        >>> steps = fractions(0.5).then(fractions(1.0))
        >>> steps
        fractions(0.5).then(fractions(1.0))
        >>> steps.goals(Config(0.8))
        [Goal(Config(0.4)), Goal(Config(0.8), final=True)]

    Args:
        parts: the lifted generators, one after the other.
    """

    kind: ClassVar[str] = "schedule"

    parts: tuple[Part, ...] = attrs.field(converter=_parts)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls it is made of, in order."""
        return calls_of(self.parts)

    @property
    def needs(self) -> frozenset[str]:
        """What the rounds have to report, e.g. `score`."""
        return frozenset[str]().union(*(call.needs for call in self.calls))

    @property
    def reads_setting(self) -> bool:
        """Whether it is told about the layers of the model."""
        return any(map(reads_setting, self.calls))

    @property
    def may_stop(self) -> bool:
        """Whether a condition may end it early."""
        return may_stop(self.parts)

    def then(self, other: "Schedule") -> "Schedule":
        """This schedule, and when it has no more goals the other one; each reads the reports of its own goals.

        Raises:
            CompositionError: the other is not a schedule.
        """
        if not isinstance(other, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CompositionError(
                f"{self!r}.then: expected a schedule, found {kind_of(other)}", hint="for example one_shot()"
            )
        return Schedule(self.parts + other.parts)

    def until(self, stop: Stop) -> "Schedule":
        """This schedule, ended early by the first report that fulfils a condition.

        `run` then prefers the round before: of `agp(10).until(lambda r: r.score < 0.9)` it returns the smallest
        network that still scored 0.9, unless a final goal was reached.

        Examples:
            >>> from fprune.schedules import agp
            >>> def bad(report):
            ...     return report.score < 0.9
            >>> careful = agp(4).until(bad)
            >>> careful
            agp(4).until(bad)
            >>> first = Report(0, Goal(0.0), 0.95)
            >>> careful.goal(Config(0.8), [first]), careful.goal(Config(0.8), [first, Report(1, Goal(0.4), 0.7)])
            (Goal(Config(0.4625)), None)

        Args:
            stop: a pure function of the report of a round, true when no more rounds should follow.

        Raises:
            CompositionError: it is not a function.
        """
        if not callable(stop):
            raise CompositionError(
                f"{self!r}.until: expected a function of a report, found {kind_of(stop)}",
                hint="until(lambda report: report.score < 0.9)",
            )
        return Schedule(Stopped(self.parts, stop))

    def goal(self, target: Config, reports: Sequence[Report] = (), *, setting: Setting | None = None) -> Goal | None:
        """The goal of the round that follows the reported ones; None when there is none.

        Args:
            target: what the caller asked for.
            reports: one for each earlier round.
            setting: the layers of the model, for schedules that look at them.

        Raises:
            ScheduleError: the schedule failed, or yielded something else than a goal.
        """
        return Play(repr(self), self.parts, target, setting).goal(reports)

    def live(self, setting: Setting | None = None) -> Live:
        """The same as `goal`, for one call after the other: what has been asked is not computed again."""
        return Live(self.parts, setting)

    def stopped(self, target: Config, reports: Sequence[Report], *, setting: Setting | None = None) -> bool:
        """Whether a condition ended the schedule after these reports."""
        play = Play(repr(self), self.parts, target, setting)
        return play.goal(reports) is None and play.stopped

    def goals(self, target: Config, reports: Sequence[Report] = (), *, setting: Setting | None = None) -> list[Goal]:
        """The goals that are known before their rounds run; all of them when the schedule reads no reports."""
        return self.foreseen(target, reports, setting=setting)[0]

    def foreseen(
        self,
        target: Config,
        reports: Sequence[Report] = (),
        *,
        setting: Setting | None = None,
        hopeful: bool = False,
    ) -> tuple[list[Goal], bool]:
        """The goals up to the first look at a report that does not exist yet, and whether these are all.

        Args:
            target: what the caller asked for.
            reports: one for each earlier round.
            setting: the layers of the model, for schedules that look at them.
            hopeful: assume that no condition of `until` is going to be fulfilled.

        Returns:
            The goals from the first on, and whether these are all.
        """
        return foreseen(self.parts, target, reports, setting, hopeful=hopeful)

    def __or__(self, other: Stage) -> Pipeline:
        if not isinstance(other, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refusal(self, other)
        return Pipeline(self, other)

    if not TYPE_CHECKING:  # a type checker reports the foreign left operand because there is no such operator

        def __ror__(self, other: object) -> Any:
            raise refusal(other, self)

    def __repr__(self) -> str:
        return text(self.parts)
