"""Annealing: the number of rounds, the acceptance, what its goals keep, what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprune.config import Config
from fprune.errors import ConfigError, ConfigTypeError, ScheduleError
from fprune.records import Goal, Report
from fprune.schedules import annealing
from fprune.schedules.annealing import chance
from fprune.setting import Setting
from tests.unit.schedules.playing import layered, played, setting_of, sparsities, weighted

SIZES = [64, 256, 32, 1000]
TARGET = [{"total_sparsity": 0.5}]


def by_round(goal: Goal, index: int) -> float:
    return float(index)


@pytest.mark.parametrize("score", [by_round, lambda goal, index: -float(index)], ids=["all kept", "all worse"])
def test_seventeen_rounds_whatever_is_kept(score: Any) -> None:
    assert len(played(annealing(), setting_of(SIZES, TARGET), TARGET, score)) == 17


@given(st.floats(1, 1000), st.floats(0.01, 0.95), st.floats(0.3, 0.95))
def test_the_number_of_rounds_is_known_before(start: float, end: float, cooling: float) -> None:
    """One for the start, and one for each temperature `start * cooling^n > stop`."""
    goals = played(
        annealing(start=start, stop=start * end, cooling=cooling), setting_of(SIZES, TARGET), TARGET, by_round
    )
    assert len(goals) - 1 == pytest.approx(max(math.ceil(math.log(end) / math.log(cooling) - 1e-9), 0), abs=1)
    assert len(goals) > 1


@given(st.lists(st.integers(2, 3000), min_size=2, max_size=8), st.floats(0.05, 0.85), st.integers(0, 99), st.data())
def test_every_goal_has_the_total_and_starts_from_the_origin(
    sizes: list[int], total: float, seed: int, data: st.DataObject
) -> None:
    scores = data.draw(st.lists(st.floats(0, 1), min_size=17, max_size=17))
    target = [{"total_sparsity": total}]
    if total > 0.95 * (sum(sizes) - len(sizes)) / sum(sizes):
        return
    goals = played(annealing(), setting_of(sizes, target, seed), target, lambda _, index: scores[index])
    for goal in goals:
        assert abs(weighted(goal, sizes) - total) < 1e-9
        assert goal.start == "origin" and goal.final
        removed = sum(math.floor(s * sizes[int(name[1:])] + 1e-9) for name, s in sparsities(goal).items())
        assert removed == math.floor(total * sum(sizes) + 1e-9)


def test_bounds_hold_in_every_goal() -> None:
    target = [{"total_sparsity": 0.5, "max_sparsity_per_layer": {"l3": 0.5, "l1": 0.6, "l0": 0.7, "l2": 0.5}}]
    for goal in played(annealing(), setting_of(SIZES, target), target, by_round):
        found = sparsities(goal)
        assert found["l3"] <= 0.5 and found["l1"] <= 0.6 and found["l0"] <= 0.7 and found["l2"] <= 0.5
        assert abs(weighted(goal, SIZES) - 0.5) < 1e-9


def test_every_rule_has_its_own_total() -> None:
    target = [
        {"op_names": ["l0", "l1"], "total_sparsity": 0.3},
        {"op_names": ["l2"], "exclude": True},
        {"op_names": ["l3", "l4"], "sparsity": 0.7},
    ]
    sizes = [*SIZES, 500]
    for goal in played(annealing(), setting_of(sizes, target), target, by_round):
        assert abs(weighted(goal, sizes, ["l0", "l1"]) - 0.3) < 1e-9
        assert abs(weighted(goal, sizes, ["l3", "l4"]) - 0.7) < 1e-9
        plan = goal.config.resolve(layered(sizes))
        assert plan["l2"].excluded and not plan["l0"].excluded


def test_the_seed_decides() -> None:
    first, again, other = (played(annealing(), setting_of(SIZES, TARGET, seed), TARGET, by_round) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(st.lists(st.floats(-1, 1), min_size=0, max_size=17))
def test_replayed_equals_live(scores: list[float]) -> None:
    schedule, setting, target = annealing(), setting_of(SIZES, TARGET), Config(TARGET)
    live = played(schedule, setting, TARGET, lambda _, index: [*scores, *[0.0] * 17][index])
    reports = [Report(i, goal, score) for i, (goal, score) in enumerate(zip(live, scores, strict=False))]
    expected = live[len(reports)] if len(reports) < len(live) else None
    assert schedule.goal(target, reports, setting=setting) == expected


def test_chance_is_that_of_a_drop_in_units_of_the_spread() -> None:
    seen = [0.5, 0.7, 0.9]
    spread = math.sqrt(((0.2) ** 2 + 0 + (0.2) ** 2) / 3)
    assert chance(0.1, seen, 0.5) == pytest.approx(math.exp(-0.1 / (spread * 0.5)))
    assert chance(0.0, seen, 0.5) == chance(-1.0, seen, 0.5) == 1.0
    assert chance(100.0, [100 * s for s in seen], 0.5) == pytest.approx(chance(1.0, seen, 0.5))


def test_a_large_drop_is_hardly_ever_kept_late() -> None:
    """No random walk: of moves that lose .8 of a score in [0, 1], about 1 in 100 is kept, and none of the late ones.

    What is kept shows in where the next move starts: after a drop that was not kept the score to beat is the old one.
    """
    early, late = [], []
    for heat in np.linspace(0.9, 0.2, 20):
        scores = [0.9, *[0.9, 0.1] * 4, 0.1]
        (early if heat > 0.5 else late).append(chance(0.8, scores, float(heat)))
    assert max(late) < 0.02 and min(early) < 0.15 and late == sorted(late, reverse=True)


def test_what_is_kept_is_where_the_next_move_starts() -> None:
    """With moves far smaller than the allocations are apart, the walk stays where the score is best."""
    config, setting = TARGET, setting_of([100] * 6, TARGET)
    best: dict[str, float] = {}

    def falling(goal: Goal, index: int) -> float:
        if not best:
            best.update(sparsities(goal))
        return -sum(abs(best[name] - s) for name, s in sparsities(goal).items())

    goals = played(annealing(start=100, stop=1, cooling=0.97, magnitude=0.2), setting, config, falling)
    distances = [-falling(goal, 0) for goal in goals]
    assert np.mean(distances[-20:]) < 0.35 * np.mean(distances[1:20])


def test_a_move_that_is_kept_leads_further_than_one_move_could() -> None:
    """Where every move is kept the walk leaves the start behind; a move alone is at most the magnitude, rescaled."""
    for seed in range(3):
        schedule = annealing(start=100, stop=1, cooling=0.99, magnitude=0.05)
        first, *others = map(sparsities, played(schedule, setting_of([100] * 6, TARGET, seed), TARGET, by_round))
        far = max(abs(first[name] - s) for goal in others for name, s in goal.items())
        assert far > 0.15


def test_impossible_bounds_are_refused_with_names() -> None:
    target = [{"total_sparsity": 0.8, "max_sparsity_per_layer": {"l0": 0.9, "l1": 0.9, "l2": 0.9, "l3": 0.5}}]
    with pytest.raises(ConfigError, match=r"out of reach .*'l3' at most 0.5") as caught:
        played(annealing(), setting_of(SIZES, target), target, by_round)
    reachable = (0.9 * (64 + 256 + 32) + 500) / 1352
    assert f"at most {math.floor(reachable * 1e4) / 1e4:g}" in caught.value.hint
    played(annealing(), setting_of(SIZES, [{**target[0], "total_sparsity": reachable - 1e-6}]), target, by_round)


def test_a_round_without_score_is_refused() -> None:
    for found in (None, math.nan):
        with pytest.raises(ScheduleError, match="score"):
            played(annealing(), setting_of(SIZES, TARGET), TARGET, lambda goal, index, found=found: found)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cooling": 1.0}, ConfigError),
        ({"cooling": 0.0}, ConfigError),
        ({"stop": 0.0}, ConfigError),
        ({"stop": 100.0}, ConfigError),
        ({"start": 1.0}, ConfigError),
        ({"start": -1.0}, ConfigError),
        ({"magnitude": 2.0}, ConfigError),
        ({"start": math.inf}, ConfigError),
        ({"start": "100"}, ConfigTypeError),
        ({"magnitude": True}, ConfigTypeError),
    ],
)
def test_senseless_options_are_refused_when_written(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        annealing(**options)


def test_a_setting_is_needed() -> None:
    assert isinstance(setting_of(SIZES, TARGET), Setting)
    with pytest.raises(ScheduleError, match="setting"):
        annealing().goals(Config(TARGET))
