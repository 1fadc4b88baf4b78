"""NetAdapt: one proposal a layer, each the smallest that saves a step; the best one is kept."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprune import count, dependency_aware, evaluate, l1
from fprune.config import Config
from fprune.errors import ConfigError
from fprune.records import Goal
from fprune.schedules import netadapt
from tests.unit.schedules.playing import IMAGES, Residual, played, setting_of, sparsities, weighted

SIZES = [40, 100, 60]
TARGET = [{"total_sparsity": 0.5}]


def counts(goal: Goal) -> list[int]:
    return [round(s * SIZES[int(name[1:])]) for name, s in sparsities(goal).items()]


def test_by_hand() -> None:
    """200 weights, 100 to remove in 4 steps of 25; the second layer costs nothing until 60 are gone, the others 1."""

    def score(goal: Goal, index: int) -> float:
        a, b, c = counts(goal)
        return -(a + c + max(b - 60, 0) * 10)

    goals = played(netadapt(4), setting_of(SIZES, TARGET), TARGET, score)
    assert [counts(goal) for goal in goals] == [
        [25, 0, 0], [0, 25, 0], [0, 0, 25],
        [25, 25, 0], [0, 50, 0], [0, 25, 25],
        [25, 50, 0], [0, 75, 0], [0, 50, 25],
        [39, 50, 0], [25, 75, 0], [25, 50, 25],
    ][:9] + [counts(goal) for goal in goals[9:]]  # fmt: skip
    last = [counts(goal) for goal in goals[9:]]
    assert last == [[25, 75, 0], [25, 50, 25]], "the first layer keeps one weight, so that it cannot lose 50"
    assert [goal.final for goal in goals] == [False] * 9 + [True] * 2
    assert all(goal.start == "origin" for goal in goals)


@given(st.integers(1, 12), st.floats(0.05, 0.85), st.integers(0, 50))
def test_final_goals_meet_the_target_exactly_and_others_do_not(steps: int, total: float, salt: int) -> None:
    target = [{"total_sparsity": total, "max_sparsity_per_layer": 0.9}]

    def score(goal: Goal, index: int) -> float:
        return float(math.sin(salt + 37 * index))

    goals = played(netadapt(steps), setting_of(SIZES, target), target, score)
    assert len(goals) <= 3 * (steps + 3)
    need = math.floor(total * 200 + 1e-9)
    for goal in goals:
        assert (sum(counts(goal)) >= need) == goal.final
        assert sum(counts(goal)) <= need
        assert weighted(goal, SIZES) <= total + 1e-9
    assert goals[-1].final


def test_what_is_kept_is_the_best_of_a_step() -> None:
    goals = played(netadapt(3), setting_of(SIZES, TARGET), TARGET, lambda goal, index: 1.0 if index in (1, 5) else 0.0)
    kept, again = sparsities(goals[1]), sparsities(goals[5])
    assert all(sparsities(goal)[name] >= kept[name] for goal in goals[3:] for name in kept)
    assert all(sparsities(goal)[name] >= again[name] for goal in goals[6:] for name in again)


def test_every_rule_meets_its_own_total() -> None:
    target = [{"op_names": ["l0"], "sparsity": 0.5}, {"op_names": ["l1", "l2"], "total_sparsity": 0.25}]
    goals = played(netadapt(2), setting_of(SIZES, target), target, lambda goal, index: float(index))
    final = [counts(goal) for goal in goals if goal.final]
    assert final
    for a, b, c in final:
        assert (a, b + c) == (20, 40)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_operations_of_the_final_models_meet_the_target(share: float) -> None:
    net = Residual()
    pipeline = netadapt(3, target="flops") | l1(dependency_aware) | evaluate(lambda module: 0.0)
    dense = count(net, (IMAGES,)).flops
    results = list(pipeline.stream(net, [{"total_sparsity": share}], example_inputs=(IMAGES,)))
    assert results[-1].goal.final
    for result in results:
        left = count(result.model, (IMAGES,), result.masks).flops
        assert (left <= (1 - share) * dense + 1e-6) == result.goal.final


def test_proposals_of_a_step_do_not_look_at_one_another() -> None:
    assert len(netadapt(5).goals(Config(TARGET), setting=setting_of(SIZES, TARGET))) == 3


@pytest.mark.parametrize(("args", "options"), [((0,), {}), ((3,), {"target": "latency"})])
def test_senseless_options_are_refused_when_written(args: Any, options: Any) -> None:
    with pytest.raises(ConfigError):
        netadapt(*args, **options)
