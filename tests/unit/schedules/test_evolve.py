"""Evolution: generations that look at nothing of their own, children of the best, totals that are kept."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprune.config import Config
from fprune.errors import ConfigError, ConfigTypeError
from fprune.records import Goal, Report
from fprune.schedules import evolve
from tests.unit.schedules.playing import played, setting_of, sparsities, weighted

SIZES = [64, 256, 32, 1000]
TARGET = [{"total_sparsity": 0.5, "max_sparsity_per_layer": 0.9}]
BEST = {"l0": 0.9, "l1": 0.2, "l2": 0.1, "l3": 0.5640625}


def near(goal: Goal, index: int) -> float:
    return -sum(abs(BEST[name] - s) for name, s in sparsities(goal).items())


@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 8), st.floats(0.05, 0.85), st.integers(0, 99))
def test_every_goal_has_the_total(population: int, generations: int, parents: int, total: float, seed: int) -> None:
    target = [{"total_sparsity": total, "max_sparsity_per_layer": 0.9}]
    schedule = evolve(population=population, generations=generations, parents=parents)
    goals = played(schedule, setting_of(SIZES, target, seed), target, near)
    assert len(goals) == population * generations
    for goal in goals:
        assert abs(weighted(goal, SIZES) - total) < 1e-9
        assert all(0 <= s <= 0.9 for s in sparsities(goal).values())
        assert goal.start == "origin" and goal.final
        removed = sum(math.floor(s * SIZES[int(name[1:])] + 1e-9) for name, s in sparsities(goal).items())
        assert removed == math.floor(total * sum(SIZES) + 1e-9)


def test_it_comes_nearer_to_the_best() -> None:
    sizes, target = [100] * 8, [{"total_sparsity": 0.5}]

    def score(goal: Goal, index: int) -> float:
        return -sum(abs((0.8 if int(name[1:]) % 2 else 0.2) - s) for name, s in sparsities(goal).items())

    for seed in range(3):
        goals = played(evolve(), setting_of(sizes, target, seed), target, score)
        generations = [[score(goal, 0) for goal in goals[i : i + 16]] for i in range(0, 160, 16)]
        assert max(generations[0]) < -1 < -0.7 < max(generations[-1])
        assert sum(generations[-1]) / 16 > max(generations[0]), "children of the best are better than chance"


def test_the_first_is_the_even_division() -> None:
    first, second, *_ = played(evolve(), setting_of(SIZES, TARGET), TARGET, near)
    assert set(sparsities(first).values()) == {0.5}
    assert sparsities(second) != sparsities(first)


def test_a_generation_is_known_before_its_rounds_run() -> None:
    """What runs at the same time: goals that follow without a look at a report of their own generation."""
    schedule, setting, target = evolve(population=5), setting_of(SIZES, TARGET), Config(TARGET)
    first = schedule.goals(target, setting=setting)
    assert len(first) == 5
    reports = [Report(i, goal, near(goal, i)) for i, goal in enumerate(first)]
    assert len(schedule.goals(target, reports, setting=setting)) == 10
    assert len(schedule.goals(target, reports[:3], setting=setting)) == 5


def test_children_come_from_the_best_ever_seen() -> None:
    """With one parent and tiny mutations the second generation lies around the best of the first."""
    schedule = evolve(population=8, generations=2, parents=1, magnitude=1e-3)
    goals = played(schedule, setting_of(SIZES, TARGET), TARGET, near)
    best = sparsities(max(goals[:8], key=lambda goal: near(goal, 0)))
    for child in goals[8:]:
        assert sparsities(child) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"population": 1}, ConfigError),
        ({"population": 2.0}, ConfigTypeError),
        ({"generations": 0}, ConfigError),
        ({"parents": 0}, ConfigError),
        ({"mutation": 0.0}, ConfigError),
        ({"magnitude": 1.5}, ConfigError),
    ],
)
def test_senseless_options_are_refused_when_written(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        evolve(**options)
