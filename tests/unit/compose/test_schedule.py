"""A schedule is a pure function of the target and of the reports so far."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune.compose import Schedule, schedule
from fprune.config import Config
from fprune.errors import CompositionError, ConfigError, ScheduleError
from fprune.records import Goal, Report
from tests.unit import toys

TARGET = Config(0.8)


def report(index: int, score: float = 0.0) -> Report:
    return Report(index, Goal(0.5), score)


@schedule
def cautious(target: Config, start: float) -> Iterator[Goal]:
    """Each step is the larger, the better the last score was."""
    done = start
    while done < 1:
        result = yield Goal(target.scaled(done))  # type: ignore[misc]
        done += 0.1 + result.score / 10
    yield Goal(target, final=True)


@given(st.lists(st.floats(0, 1), max_size=6), st.integers(0, 6))
def test_the_same_reports_give_the_same_goal(scores: list[float], other: int) -> None:
    """L7: whatever was asked before, and in whatever order."""
    reports = [report(i, score) for i, score in enumerate(scores)]
    one = cautious(0.1)
    expected = one.goal(TARGET, reports)
    one.goal(TARGET, reports[:other])
    assert one.goal(TARGET, reports) == expected
    assert cautious(0.1).goal(TARGET, tuple(reports)) == expected


def test_goals_follow_reports() -> None:
    assert cautious(0.2).goal(TARGET, []) == Goal(TARGET.scaled(0.2))
    assert cautious(0.2).goal(TARGET, [report(0, 1.0)]) == Goal(TARGET.scaled(0.2 + 0.1 + 0.1))
    assert cautious(0.8).goal(TARGET, [report(0, 1.0)]) == Goal(TARGET, final=True)
    assert cautious(0.8).goal(TARGET, [report(0, 1.0), report(1)]) is None
    assert cautious(0.8).goal(TARGET, [report(i, 1.0) for i in range(9)]) is None


def test_global_randomness_cannot_make_a_schedule_impure() -> None:
    @schedule
    def dice(target: Config) -> Iterator[Goal]:
        for _ in range(3):
            yield Goal(target.scaled(float(torch.rand(())) * random.random()))

    before = torch.get_rng_state()
    assert dice().goals(TARGET) == dice().goals(TARGET)
    assert dice().goal(TARGET, [report(0)]) == dice().goals(TARGET)[1]
    assert torch.equal(before, torch.get_rng_state())


def test_foresight_ends_at_the_first_look_at_a_report() -> None:
    assert toys.steps(0.5, 1.0).foreseen(TARGET) == (
        [Goal(TARGET.scaled(0.5)), Goal(TARGET, final=True)],
        True,
    )
    assert cautious(0.2).foreseen(TARGET) == ([Goal(TARGET.scaled(0.2))], False)
    assert len(cautious(0.2).foreseen(TARGET, [report(0)])[0]) == 2


@pytest.mark.parametrize(
    "look",
    [
        lambda r: r.score,
        lambda r: r == 3,
        lambda r: bool(r),
        lambda r: isinstance(r, Report),
        lambda r: r.metrics["x"],
    ],
    ids=["attribute", "==", "bool", "isinstance", "item"],
)
def test_every_look_counts(look: Any) -> None:
    @schedule
    def looking(target: Config) -> Iterator[Goal]:
        seen = []
        seen.append((yield Goal(target.scaled(0.1))))  # type: ignore[arg-type]
        seen.append((yield Goal(target.scaled(0.2))))  # type: ignore[arg-type]
        try:
            look(seen[0])
        except Exception:
            yield Goal(target.scaled(0.9))
        yield Goal(target, final=True)

    goals, complete = looking().foreseen(TARGET)
    assert (len(goals), complete) == (2, False)


def test_an_endless_schedule_is_not_followed_forever() -> None:
    @schedule
    def endless(target: Config) -> Iterator[Goal]:
        while True:
            yield Goal(target)

    goals, complete = endless().foreseen(TARGET)
    assert len(goals) == 1000
    assert not complete


def test_then_is_associative_and_prints_as_written() -> None:
    a, b, c = toys.steps(0.1), toys.steps(0.2), cautious(0.3)
    assert a.then(b).then(c) == a.then(b.then(c))
    assert repr(a.then(b).then(c)) == "steps(0.1).then(steps(0.2)).then(cautious(0.3))"
    assert a.then(b) != b.then(a)


def test_then_starts_when_the_first_is_over_and_reads_its_own_reports() -> None:
    both = toys.steps(0.1, 0.2).then(cautious(0.5))
    reports = [report(0, 9.0), report(1, 9.0), report(2, 1.0)]
    assert both.goal(TARGET, reports[:2]) == Goal(TARGET.scaled(0.5))
    assert both.goal(TARGET, reports) == cautious(0.5).goal(TARGET, reports[2:])


def test_then_takes_a_schedule() -> None:
    with pytest.raises(CompositionError, match=r"expected a schedule, found stage"):
        toys.steps(0.1).then(toys.smallest())  # type: ignore[arg-type]


def test_a_schedule_may_be_any_iterator() -> None:
    @schedule
    def listed(target: Config) -> Iterator[Goal]:
        return iter([Goal(target.scaled(0.5)), Goal(target, final=True)])

    assert listed().goal(TARGET, [report(0)]) == Goal(TARGET, final=True)
    assert listed().goal(TARGET, [report(0), report(1)]) is None


def test_what_is_not_a_goal_is_refused() -> None:
    @schedule
    def numbers(target: Config) -> Iterator[Goal]:
        yield Goal(target)
        yield 0.5  # type: ignore[misc]

    with pytest.raises(ScheduleError, match=r"numbers\(\), goal 1: yielded 0.5, expected a Goal\nhint: yield Goal"):
        numbers().goal(TARGET, [report(0)])


def test_what_is_no_iterator_is_refused() -> None:
    @schedule
    def forgot(target: Config) -> Iterator[Goal]:
        return None  # type: ignore[return-value]

    with pytest.raises(ScheduleError, match=r"forgot\(\), goal 0: TypeError.*\nhint: a schedule is a generator"):
        forgot().goal(TARGET, [])


def test_errors_inside_name_schedule_and_goal() -> None:
    @schedule
    def divides(target: Config) -> Iterator[Goal]:
        yield Goal(target)
        yield Goal(target.scaled(1 / 0))

    with pytest.raises(ScheduleError, match=r"divides\(\), goal 1: ZeroDivisionError"):
        divides().goal(TARGET, [report(0)])
    with pytest.raises(ConfigError) as e:
        toys.steps(0.5, 1.5).goal(TARGET, [report(0)])
    assert e.value.__notes__ == ["in steps(0.5, 1.5), goal 1"]


def test_a_schedule_is_made_of_lifted_calls() -> None:
    with pytest.raises(CompositionError, match="expected calls of schedules"):
        Schedule(toys.smallest().calls)
    with pytest.raises(CompositionError, match="at least one call"):
        Schedule(())
