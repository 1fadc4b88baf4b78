"""Run a schedule's generator from the start with the recorded reports, so that it is a function of history."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

from fprune.compose.call import Call
from fprune.config import Config
from fprune.errors import FpruneError, ScheduleError
from fprune.isolation import isolated
from fprune.records import Goal, Report

Goals = Generator[Goal, Report | None, None]

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


def _sendable(goals: Iterator[Goal]) -> Goals:
    """An iterator without `send` is one that reads no reports."""
    if isinstance(goals, Generator):
        return cast(Goals, goals)
    return _iterated(goals)


def _iterated(goals: Iterator[Goal]) -> Goals:
    for goal in goals:  # noqa: UP028  (`yield from` would hand on what is sent)
        yield goal


def _chained(calls: Sequence[Call], target: Config) -> Goals:
    for call in calls:
        yield from _sendable(call(target))


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
            hint="a schedule is a generator: fn(target, *options) -> Iterator[Goal]",
        ) from error
    if not isinstance(goal, Goal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ScheduleError(
            f"{name}, goal {position}: yielded {goal!r}, expected a Goal", hint="yield Goal(target.scaled(fraction))"
        )
    return goal


def replayed(name: str, calls: Sequence[Call], target: Config, reports: Sequence[Report]) -> Goal | None:
    """The goal that follows the reports, from fresh generators; None when there is none."""
    with isolated(seed=0):
        goals = _chained(calls, target)
        try:
            goal = _next(name, goals, 0, None)
            for position, report in enumerate(reports, 1):
                goal = _next(name, goals, position, report)
        except StopIteration:
            return None
        finally:
            goals.close()
    return goal


def foreseen(name: str, calls: Sequence[Call], target: Config, reports: Sequence[Report]) -> tuple[list[Goal], bool]:
    """The goals known before their rounds run, up to the first look at a missing report; and whether these are all."""
    found: list[Goal] = []
    with isolated(seed=0):
        goals = _chained(calls, target)
        try:
            found.append(_next(name, goals, 0, None))
            while len(found) < _MANY:
                report = reports[len(found) - 1] if len(found) <= len(reports) else cast(Report, _Unknown())
                found.append(_next(name, goals, len(found), report))
        except StopIteration:
            return found, True
        except _ReadsReports:
            return found, False
        finally:
            goals.close()
    return found, False
