"""Budgets of the whole model: how they are written, scaled, shown, and what is refused before any work."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from fprune import (
    Config,
    Goal,
    Model,
    Rule,
    agp,
    balanced,
    block,
    count,
    dependency_aware,
    evaluate,
    finetune,
    globally,
    isomorphic,
    l1,
    lamp,
    level,
    linear,
    lottery,
    n_m,
    one_shot,
    per_layer,
    schedule,
    speed_up,
)
from fprune.errors import ConfigError, ConfigTypeError, ScheduleError
from tests.unit.allocate.test_axes import X, residual
from tests.unit.allocate.test_dependency_aware import seeded

HALF = [{"op_types": ["Conv2d"], "budget": {"flops": 0.5}}]


def never(module: nn.Module) -> None:
    raise AssertionError("nothing runs before the budget is checked")


def test_a_budget_is_read_written_and_scaled() -> None:
    rule = Rule(op_types=["Conv2d"], budget={"params": 0.4, "flops": 0.5})
    assert rule == eval(repr(rule)) == Rule.from_dict(json.loads(json.dumps(rule.to_dict())))
    assert repr(rule) == "Rule(op_types=('Conv2d',), budget={'flops': 0.5, 'params': 0.4})"
    assert hash(rule) == hash(eval(repr(rule)))
    assert rule != Rule(op_types=["Conv2d"], budget={"flops": 0.5}) != Rule(op_types=["Conv2d"], sparsity=0.5)
    assert (rule.amount, dict(rule.amounts)) == (0.5, {"flops": 0.5, "params": 0.4})
    config = Config(rule)
    assert config == eval(repr(config)) == Config.from_list(config.to_list())
    assert config.scaled(0.5).rules[0].budget == Rule(budget={"flops": 0.25, "params": 0.2}).budget
    assert config.scaled(0.0).rules[0].budget == Rule(budget={"flops": 0.0, "params": 0.0}).budget


def test_schedules_scale_every_part() -> None:
    target = Config({"budget": {"flops": 0.75, "params": 0.5}})
    halfway = next(iter(lottery(2).goals(target))).config.rules[0].amounts
    assert dict(halfway) == pytest.approx({"flops": 0.5, "params": 1 - 0.5**0.5})


@pytest.mark.parametrize(
    ("rule", "kind", "told"),
    [
        ({"budget": 0.5}, ConfigTypeError, r"budget: expected a mapping, got 0.5 \(float\)\shint: budget=\{'flops'"),
        ({"budget": {}}, ConfigError, "budget: the mapping is empty"),
        ({"budget": {"flop": 0.5}}, ConfigError, r"got 'flop'\shint: Did you mean 'flops'"),
        ({"budget": {"flops": 1.5}}, ConfigError, r"budget\['flops'\]: expected a fraction in \[0, 1\), got 1.5"),
        ({"budget": {"params": 50}}, ConfigTypeError, r"budget\['params'\]: .* got the int 50"),
        ({"budget": {"flops": 0.5}, "sparsity": 0.5}, ConfigError, "sparsity and budget exclude each other"),
        (
            {"budget": {"flops": 0.5}, "total_sparsity": 0.5},
            ConfigError,
            "total_sparsity and budget exclude each other",
        ),
        ({"budget": {"flops": 0.5}, "exclude": True}, ConfigError, "exclude=True contradicts budget"),
        ({"budget": {"flops": 0.5}, "keep_class": True}, ConfigError, "keep_class gives units back"),
    ],
)
def test_what_is_no_budget_is_refused_when_it_is_written(rule: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        Config([rule])


def test_two_rules_with_a_budget_are_refused() -> None:
    with pytest.raises(ConfigError, match="rules 0 and 2 have a budget each"):
        Config([{"budget": {"flops": 0.5}}, {"op_names": ["a"], "sparsity": 0.5}, {"budget": {"params": 0.5}}])


def test_the_plan_and_the_explanation_show_a_budget() -> None:
    config = [{"op_types": ["Conv2d"], "budget": {"flops": 0.5, "params": 0.25}, "max_sparsity_per_layer": 0.9}]
    shown = (linear(2) | l1(dependency_aware)).explain(residual(), config, example_inputs=(X,))
    assert "flops 0.5 and params 0.25 of the model, at most 0.9" in str(shown.plan)
    assert [row[1] for row in shown.rounds] == [
        "0 of flops and 0 of params",
        "0.25 of flops and 0.125 of params",
        "0.5 of flops and 0.25 of params",
    ]


@pytest.mark.parametrize("allocation", [dependency_aware, isomorphic])
@pytest.mark.parametrize("key", ["flops", "params"])
def test_what_is_out_of_reach_is_refused_before_any_work(allocation: Any, key: str) -> None:
    net = seeded(residual())
    pipeline = one_shot() | finetune(never) | l1(allocation) | evaluate(lambda module: 0.0)
    config = [{"op_names": ["conv2"], "budget": {key: 0.95}}]
    for ask in (pipeline.stream, pipeline.explain):
        with pytest.raises(
            ConfigError, match=rf"(?s)rule 0: budget {key} 0.95 is out of reach.*hint: ask for 0 to 0\.\d"
        ) as e:
            ask(net, config, example_inputs=(X,))
    most = float(str(e.value).split("ask for 0 to ")[1].split(",")[0])
    reached = (one_shot() | l1(allocation)).run(
        net, [{"op_names": ["conv2"], "budget": {key: most}}], example_inputs=(X,)
    )
    assert int(reached.masks["conv2.weight"].any(3).any(2).any(1).sum()) == 1
    with pytest.raises(ConfigError, match="out of reach"):
        pipeline.stream(net, [{"op_names": ["conv2"], "budget": {key: most + 0.0002}}], example_inputs=(X,))


def test_a_bound_makes_less_reachable() -> None:
    config = [{"op_types": ["Conv2d"], "budget": {"flops": 0.6}, "max_sparsity_per_layer": 0.25}]
    with pytest.raises(ConfigError, match=r"ask for 0 to 0\.3499"):
        (one_shot() | l1(dependency_aware)).stream(residual(), config, example_inputs=(X,))


@pytest.mark.parametrize("allocation", [globally, lamp])
def test_a_masked_layer_saves_no_flops(allocation: Any) -> None:
    pipeline = one_shot() | finetune(never) | level(allocation)
    with pytest.raises(ConfigError, match=r"rule 0: a budget of FLOPs.*\shint: use dependency_aware"):
        pipeline.stream(residual(), HALF)
    with pytest.raises(ConfigError, match="a budget of FLOPs"):
        level(allocation).masks(Model.from_module(residual()), HALF)


@pytest.mark.parametrize("allocation", [per_layer, balanced(), n_m(1, 2), block(2, 2)], ids=repr)
@pytest.mark.parametrize("key", ["flops", "params"])
def test_layers_by_themselves_have_no_budget(allocation: Any, key: str) -> None:
    config = [{"op_types": ["Conv2d"], "budget": {key: 0.5}}]
    with pytest.raises(ConfigError, match=r"treats each layer by itself\s*hint: use dependency_aware"):
        (one_shot() | finetune(never) | level(allocation)).stream(residual(), config)
    with pytest.raises(ConfigError, match="treats each layer by itself"):
        level(allocation).masks(Model.from_module(residual()), config)


@pytest.mark.parametrize("make", [level, l1])
def test_parameters_out_of_reach_are_refused_before_any_work(make: Any) -> None:
    net = residual()
    total = count(net, X).params
    rule = {"op_names": ["conv2"], "budget": {"params": 0.6}}
    with pytest.raises(
        ConfigError, match=rf"of the model's {total} parameters, and globally reaches \d+\shint: ask for"
    ):
        (one_shot() | finetune(never) | make(globally)).stream(net, [rule])


def test_a_budget_that_falls_is_refused() -> None:
    @schedule
    def falling(target: Config) -> Any:
        yield Goal(target)
        yield Goal(target.scaled(0.5), final=True)

    with pytest.raises(ScheduleError, match=r"goal 1: asks for flops 0\.25 after 0\.5"):
        (falling() | l1(dependency_aware)).stream(residual(), HALF, example_inputs=(X,))


@pytest.mark.parametrize("factory", [agp, linear, lottery])
def test_every_round_meets_its_part_and_masks_only_shrink(factory: Any) -> None:
    net = seeded(residual())
    whole, before = count(net, X), None
    for result in (factory(3) | l1(dependency_aware) | speed_up()).stream(net, HALF, example_inputs=(X,)):
        now = count(result.module(), X)
        assert 1 - now.flops / whole.flops >= result.goal.config.rules[0].amount - 1e-12
        assert before is None or now.flops <= before
        before = now.flops
    assert before is not None and 1 - before / whole.flops >= 0.5
    assert torch.equal(result.origin["conv1.weight"], Model.from_module(net)["conv1.weight"])
