"""Schedules give the values of the papers, end exactly at the target, and refuse senseless options."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprune.compose import Schedule
from fprune.config import Config
from fprune.errors import CompositionError, ConfigError, ConfigTypeError
from fprune.records import Goal, Report
from fprune.schedules import agp, linear, lottery, one_shot, unfold

ROUNDED: dict[str, Callable[[int], Schedule]] = {"agp": agp, "linear": linear, "lottery": lottery}
targets = st.floats(0, 1, exclude_max=True)
rounds = st.integers(1, 30)


def amounts(schedule: Schedule, target: float) -> list[float]:
    return [goal.config.rules[0].amount for goal in schedule.goals(Config(target))]


def test_values_of_the_papers() -> None:
    assert amounts(agp(4), 0.8) == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8], abs=1e-12)
    assert amounts(linear(4), 0.8) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=1e-12)
    assert amounts(lottery(4), 0.8) == pytest.approx([0.33126, 0.55279, 0.70093, 0.8], abs=5e-6)
    assert amounts(one_shot(), 0.8) == [0.8]


@given(targets, rounds)
def test_formulas(s: float, n: int) -> None:
    assert amounts(agp(n), s) == pytest.approx([s * (1 - (1 - t / n) ** 3) for t in range(n + 1)], abs=1e-12)
    assert amounts(linear(n), s) == pytest.approx([s * t / n for t in range(n + 1)], abs=1e-12)
    assert amounts(lottery(n), s) == pytest.approx([1 - (1 - s) ** (t / n) for t in range(1, n + 1)], abs=1e-12)


@given(targets, rounds, st.sampled_from(sorted(ROUNDED)))
def test_goals_rise_in_range_to_exactly_the_target(s: float, n: int, name: str) -> None:
    target = Config([{"op_names": ["a"], "sparsity": s}, {"op_names": ["b"], "total_sparsity": s / 2}])
    goals = ROUNDED[name](n).goals(target)
    assert [goal.final for goal in goals] == [False] * (len(goals) - 1) + [True]
    assert goals[-1].config == target
    assert len(goals) == (n if name == "lottery" else n + 1)
    for rule in (0, 1):
        found = [goal.config.rules[rule].amount for goal in goals]
        assert all(a <= b + 1e-12 for a, b in pairwise(found))
        assert all(0 <= a < 1 for a in found)
    assert all(goal.start == "previous" for goal in goals)


@given(targets, rounds, st.sampled_from(sorted(ROUNDED)), st.data())
def test_any_round_can_be_asked_for(s: float, n: int, name: str, data: st.DataObject) -> None:
    """Random access equals sequential access, which resuming relies on."""
    schedule, target = ROUNDED[name](n), Config(s)
    goals = schedule.goals(target)
    t = data.draw(st.integers(0, len(goals)))
    past = [Report(i, goals[i]) for i in range(t)]
    assert schedule.goal(target, past) == (goals[t] if t < len(goals) else None)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("bad", [0, -1, -10])
def test_rounds_are_at_least_one(name: str, bad: int) -> None:
    with pytest.raises(ConfigError, match=rf"rounds: expected at least 1, got {bad}\nhint: one_shot"):
        ROUNDED[name](bad)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("bad", [2.0, "3", None, True, math.nan, np.float64(3)])
def test_rounds_are_whole(name: str, bad: Any) -> None:
    with pytest.raises(ConfigTypeError, match="rounds: expected an int, got"):
        ROUNDED[name](bad)
    with pytest.raises(ConfigTypeError):
        ROUNDED[name](rounds=bad)


def start(target: Config) -> float:
    return 0.25


def rise(state: float, report: Report | None) -> tuple[Goal, float] | None:
    if state == 1:
        return None
    state += 0.0 if report is None else report.score or 0.125
    return Goal(Config(0.5).scaled(state), final=state == 1), state


def test_unfold_threads_state_and_reports() -> None:
    schedule = unfold(start, rise)
    first = Goal(Config(0.5).scaled(0.25))
    assert repr(schedule) == "unfold(start, rise)"
    assert schedule.goal(Config(0.5)) == first
    assert schedule.goal(Config(0.5), [Report(0, first, 0.7)]) == Goal(Config(0.5).scaled(0.95))
    second = [Report(0, first, 0.5), Report(1, first, 0.25)]
    assert schedule.goal(Config(0.5), second) == Goal(Config(0.5), final=True)
    assert schedule.goal(Config(0.5), [*second, Report(2, first)]) is None
    assert schedule.foreseen(Config(0.5))[1] is False


def test_unfold_takes_functions() -> None:
    with pytest.raises(CompositionError, match="unfold: expected a function as next, got int"):
        unfold(start, 3)  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match="unfold: expected a function as init, got float"):
        unfold(0.5, rise)  # type: ignore[arg-type]
