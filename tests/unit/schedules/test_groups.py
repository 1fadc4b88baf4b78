"""What an allocation is divided over: single layers, or layers that lose their channels together."""

import pytest
import torch
from torch import nn

from fprune import Config, Model, Schedule, amc, dependency_aware, evaluate, evolve, l1, level, netadapt, speed_up
from fprune.errors import ConfigError
from fprune.schedules import annealing
from fprune.schedules.groups import pools, refuse_unreachable
from fprune.setting import Setting
from tests.unit.schedules.playing import IMAGES, Residual, setting_of, sparsities

TOTAL = [{"total_sparsity": 0.3}]


def told(config: object = TOTAL) -> Setting:
    return Setting.of(Residual(), config, example_inputs=(IMAGES,))  # type: ignore[arg-type]


def test_without_couplings_every_layer_is_a_group() -> None:
    (pool,) = pools(setting_of([10, 20, 30], TOTAL))
    assert [group.names for group in pool.groups] == ["'l0'", "'l1'", "'l2'"]
    assert pool.sizes.tolist() == [10, 20, 30] and pool.weights == 60
    assert pool.units.tolist() == [10, 20, 30]
    assert pool.caps == pytest.approx([0.9, 0.95, 29 / 30])


def test_layers_that_meet_are_one_group_and_what_can_lose_nothing_is_in_none() -> None:
    (pool,) = pools(told())
    assert {group.names for group in pool.groups} == {"'stem'", "'inner'", "'outer' with 'down'"}
    assert {group.names: group.units for group in pool.groups} == {"'stem'": 8, "'inner'": 12, "'outer' with 'down'": 8}
    assert pool.weights == 72 + 864 + 96 + 64 + 40, "the head's weights count, although it keeps its outputs"


def test_layers_that_meet_get_one_sparsity_in_every_goal() -> None:
    pipeline = annealing(stop=60) | l1(dependency_aware) | evaluate(lambda module: 0.0)
    for result in pipeline.stream(Residual(), TOTAL, example_inputs=(IMAGES,)):
        found = sparsities(result.goal)
        assert found["outer"] == found["down"]
        assert found.keys() == {"stem", "inner", "outer", "down"}


@pytest.mark.parametrize("pruner", [level(), l1()])
def test_a_pruner_of_single_layers_is_given_single_layers(pruner: object) -> None:
    """Also when another stage traces the model: what couples is the allocation."""
    pipeline = annealing(stop=60) | pruner | speed_up() | evaluate(lambda module: 0.0)
    for result in pipeline.stream(Residual(), TOTAL, example_inputs=(IMAGES,)):
        found = sparsities(result.goal)
        assert found.keys() == {"stem", "inner", "outer", "down", "fc"}
        assert found["outer"] != found["down"]


def test_coupled_layers_under_two_rules_are_refused() -> None:
    config = [{"op_names": ["outer"], "sparsity": 0.3}, {"op_names": ["down"], "sparsity": 0.3}]
    with pytest.raises(ConfigError, match=r"'outer' \(rule 0\), 'down' \(rule 1\)"):
        pools(told(config))


def test_an_excluded_layer_holds_what_it_is_coupled_to() -> None:
    config = [*TOTAL, {"op_names": ["down"], "exclude": True}]
    (pool,) = pools(told(config))
    assert {group.names for group in pool.groups} == {"'stem'", "'inner'"}
    goal = annealing().goals(Config(config), setting=told(config))[0]
    plan = goal.config.resolve(Model.from_module(Residual()))
    assert plan["down"].excluded and not plan["outer"].selected


def test_bounds_of_a_group_are_the_smallest() -> None:
    config = [{"total_sparsity": 0.3, "max_sparsity_per_layer": {"outer": 0.6, "down": 0.4}}]
    (pool,) = pools(told(config), cap=0.8)
    assert dict(zip([g.names for g in pool.groups], pool.caps.tolist(), strict=True)) == pytest.approx(
        {"'stem'": 0.8, "'inner'": 0.8, "'outer' with 'down'": 0.4}
    )


def test_what_can_lose_nothing_is_named_when_the_total_is_out_of_reach() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 50))
    setting = Setting.of(net, [{"total_sparsity": 0.5}], example_inputs=(torch.ones(1, 2),))
    with pytest.raises(ConfigError, match="150 of 156 weights are in layers that can lose nothing"):
        refuse_unreachable(pools(setting))


def test_granularity_and_multiples_stay_in_the_rules() -> None:
    config = [{"total_sparsity": 0.3, "round_to": 4, "max_sparsity_per_layer": 0.9}]
    (goal,) = annealing().goals(Config(config), setting=told(config))
    assert all(rule.round_to == 4 and rule.max_sparsity_per_layer == 0.9 for rule in goal.config.rules)


@pytest.mark.parametrize("schedule", [annealing(), evolve(), netadapt(), amc(3)], ids=repr)
def test_a_budget_is_refused_before_the_run(schedule: Schedule) -> None:
    pipeline = schedule | l1(dependency_aware) | evaluate(lambda module: 0.0)
    with pytest.raises(ConfigError, match="a budget leaves that to the allocation"):
        pipeline.stream(Residual(), [{"budget": {"flops": 0.5}}], example_inputs=(IMAGES,))
