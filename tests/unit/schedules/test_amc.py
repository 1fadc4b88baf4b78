"""AMC: every episode meets its target, states are those of the layers in turn, the seed decides, it learns."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune import Config, count, dependency_aware, evaluate, l1
from fprune.errors import CompositionError, ConfigError
from fprune.records import Goal, Report
from fprune.schedules import amc
from fprune.schedules.amc import _episode, _transitions
from fprune.schedules.ddpg import Agent
from fprune.schedules.groups import pools
from fprune.schedules.resource import ledgers
from fprune.schedules.states import FEATURES, layer_features
from fprune.setting import Setting
from tests.unit.schedules.playing import IMAGES, Residual, played, setting_of, sparsities

SIZES = [64, 256, 32, 1000]
TARGET = [{"total_sparsity": 0.5}]


def removed(goal: Goal, sizes: list[int]) -> int:
    return sum(math.floor(s * sizes[int(name[1:])] + 1e-9) for name, s in sparsities(goal).items())


def even(goal: Goal, index: int) -> float:
    return -sum(abs(s - 0.5) for s in sparsities(goal).values())


@given(
    st.lists(st.integers(2, 2000), min_size=1, max_size=6),
    st.floats(0.0, 0.85),
    st.integers(0, 99),
    st.integers(0, 3),
    st.floats(0.05, 1.0),
)
def test_every_episode_removes_exactly_the_total(
    sizes: list[int], total: float, seed: int, warmup: int, noise: float
) -> None:
    reachable = sum(min(math.floor(0.9 * n), n - 1) for n in sizes)
    target, need = [{"total_sparsity": total}], math.floor(total * sum(sizes) + 1e-9)
    schedule = amc(4, warmup=warmup, noise=noise, decay=0.5)
    if need > reachable:
        with pytest.raises(ConfigError, match="out of reach"):
            played(schedule, setting_of(sizes, target, seed), target, even)
        return
    for goal in played(schedule, setting_of(sizes, target, seed), target, even):
        assert removed(goal, sizes) == need
        assert all(s <= 0.9 for s in sparsities(goal).values())
        assert goal.final and goal.start == "origin"


def test_every_rule_meets_its_own_total_under_its_own_bound() -> None:
    target = [
        {"op_names": ["l0", "l1"], "total_sparsity": 0.25, "max_sparsity_per_layer": 0.3},
        {"op_names": ["l2", "l3"], "sparsity": 0.6},
    ]
    for goal in played(amc(5, warmup=2), setting_of(SIZES, target), target, even):
        found = sparsities(goal)
        assert max(found["l0"], found["l1"]) <= 0.3
        assert found["l0"] * 64 + found["l1"] * 256 == pytest.approx(80)
        assert found["l2"] * 32 + found["l3"] * 1000 == pytest.approx(619)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_operations_of_every_candidate_meet_the_target(share: float) -> None:
    """And with one unit less of the last layer that loses any they would not."""
    net, config = Residual(), [{"total_sparsity": share}]
    pipeline = amc(6, target="flops", warmup=3) | l1(dependency_aware) | evaluate(lambda module: 0.0)
    dense = count(net, (IMAGES,)).flops
    setting = Setting.of(net, config, example_inputs=(IMAGES,))
    (book,) = ledgers(setting, pools(setting, cap=0.9), "flops", "amc")
    for result in pipeline.stream(net, config, example_inputs=(IMAGES,)):
        assert count(result.model, (IMAGES,), result.masks).flops <= (1 - share) * dense + 1e-6
        found = sparsities(result.goal)
        counts = [round(found[group.rows[0].layer.name] * group.units) for group in book.pool.groups]
        last = max(at for at, number in enumerate(counts) if number)
        assert book.met(counts)
        assert not book.met([*counts[:last], counts[last] - 1, *counts[last + 1 :]])


def test_operations_need_whole_units() -> None:
    with pytest.raises(CompositionError, match="whole units"):
        amc(3, target="flops").goals(Config(TARGET), setting=setting_of(SIZES, TARGET))


def test_the_seed_decides_and_replay_is_the_same() -> None:
    schedule = amc(6, warmup=2)
    first, again, other = (played(schedule, setting_of(SIZES, TARGET, seed), TARGET, even) for seed in (1, 1, 2))
    assert first == again != other
    reports = [Report(i, goal, even(goal, i)) for i, goal in enumerate(first[:4])]
    assert schedule.goal(Config(TARGET), reports, setting=setting_of(SIZES, TARGET, 1)) == first[4]


def test_a_score_changes_what_the_agent_does() -> None:
    """What it learned, not only its draws: two different scores part ways after the warm-up."""

    def odd(goal: Goal, index: int) -> float:
        return sparsities(goal)["l3"]

    one, other = (played(amc(6, warmup=3), setting_of(SIZES, TARGET), TARGET, score) for score in (even, odd))
    assert one[:3] == other[:3]
    assert one[3:] != other[3:]


def test_the_next_state_is_that_of_the_next_layer() -> None:
    setting = setting_of(SIZES, TARGET)
    books = ledgers(setting, pools(setting, cap=0.9), "params", "amc")
    groups = [group for book in books for group in book.pool.groups]
    features, draw = layer_features(groups, None), torch.Generator().manual_seed(0)
    counts, states, actions = _episode(books, features, Agent(FEATURES, draw), math.inf, draw)
    found = _transitions(states, actions, 0.7)
    assert [t.last for t in found] == [False, False, False, True]
    assert [t.reward for t in found] == [0.7] * 4
    for at, (transition, state) in enumerate(zip(found, states, strict=True)):
        assert transition.state == state
        assert list(state[:7]) == features[at], "the features are those of the layer that is decided"
        assert state[9] == pytest.approx(actions[at - 1] if at else 0.0), "the last action"
        assert state[7] == pytest.approx(min(sum(counts[:at]) / 676, 1), abs=1e-6), "what was saved before"
        assert transition.following == (states[at + 1] if at < 3 else (0.0,) * FEATURES)


def test_features_are_normalised_by_column() -> None:
    setting = Setting.of(Residual(), TARGET, example_inputs=(IMAGES,))
    groups = pools(setting)[0].groups
    names = [group.names for group in groups]
    features = dict(zip(names, layer_features(groups, setting.structure), strict=True))
    index, kind, outputs, inputs, stride, kernel, weights = zip(*features.values(), strict=True)
    assert sorted(index) == [0.0, 0.5, 1.0]
    assert set(kind) == {0.0}, "all are convolutions"
    assert features["'inner'"][2] == 1.0 and features["'stem'"][2] == 0.0
    assert features["'inner'"][4] == 1.0 and features["'stem'"][4] == 0.0, "strides 2 and 1"
    assert features["'stem'"][5] == 1.0, "nine places in a kernel against one"
    assert min(inputs) == min(weights) == 0.0 and max(inputs) == max(weights) == 1.0
    assert {len(outputs), len(stride), len(kernel)} == {3}


@pytest.mark.parametrize(
    "options", [{"target": "latency"}, {"noise": 0.0}, {"decay": 2.0}, {"max_sparsity": 0.0}, {"updates": 0}]
)
def test_senseless_options_are_refused_when_written(options: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        amc(5, **options)
    with pytest.raises(ConfigError, match="episodes"):
        amc(0)
