"""Which families a config prunes, how much of each, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Config, Model, agp, dependency_aware, inputs, l1, one_shot
from fprune.allocate.axes import axes, outputs
from fprune.errors import ConfigError
from fprune.structure import trace
from tests.unit.toys import Written

X = torch.zeros(2, 3, 6, 6)


def residual() -> nn.Module:
    """conv1 + conv3 share their channels; conv2 is between them; fc makes the output."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = x + self.conv3(torch.relu(self.conv2(x)))
        return self.fc(x.mean((2, 3)))

    return Written(
        forward,
        conv1=nn.Conv2d(3, 8, 3, padding=1),
        conv2=nn.Conv2d(8, 6, 3, padding=1),
        conv3=nn.Conv2d(6, 8, 3, padding=1),
        fc=nn.Linear(8, 2),
    )


def grouped() -> nn.Module:
    return Written(
        lambda self, x: self.fc(self.b(self.a(x)).mean((2, 3))),
        a=nn.Conv2d(3, 12, 1),
        b=nn.Conv2d(12, 6, 1, groups=3),
        fc=nn.Linear(6, 2),
    )


def found(net: nn.Module, config: Any) -> Any:
    model = Model.from_module(net)
    return axes(trace(model, inputs(X)), Config.of(config).resolve(model))


def test_one_axis_for_layers_that_are_added() -> None:
    made = found(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.5}])
    assert [(len(a.family), dict(a.channels), a.rule, a.sparsity, a.cap) for a in made] == [
        (8, {"conv1.weight": 1, "conv3.weight": 1}, 0, 0.5, 1.0),
        (6, {"conv2.weight": 1}, 0, 0.5, 1.0),
    ]


def test_a_layer_no_rule_selects_follows() -> None:
    (axis,) = found(residual(), [{"op_names": ["conv1"], "sparsity": 0.25}])
    assert dict(axis.channels) == {"conv1.weight": 1}
    assert "conv3.weight" in axis.family.parameters


def test_an_excluded_partner_keeps_the_family() -> None:
    made = found(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["conv3"], "exclude": True}])
    assert [dict(a.channels) for a in made] == [{"conv2.weight": 1}]


def test_a_named_layer_whose_partner_is_excluded() -> None:
    rules = [{"op_names": ["conv1"], "sparsity": 0.5}, {"op_names": ["conv3", "conv2"], "exclude": True}]
    with pytest.raises(
        ConfigError,
        match="rule 0: 'conv1' can lose no channel: all of its 8 channels stay: it is coupled to 'conv3', which",
    ) as caught:
        found(residual(), rules)
    assert "exclude it, include what it is coupled to" in str(caught.value)
    assert "conv2" not in caught.value.message, "only those that are coupled to it"


def test_coupled_layers_that_ask_for_different_amounts() -> None:
    rules = [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["conv3"], "sparsity": 0.25}]
    with pytest.raises(ConfigError, match=r"'conv1': 0.5 .rule 0., 'conv3': 0.25 .rule 1."):
        found(residual(), rules)
    with pytest.raises(ConfigError, match="ask for different amounts"):
        found(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["conv3"], "total_sparsity": 0.5}])


def test_the_same_amount_by_two_rules_is_no_conflict() -> None:
    rules = [{"op_names": ["conv1"], "sparsity": 0.5}, {"op_names": ["conv3"], "sparsity": 0.5}]
    (axis,) = found(residual(), rules)
    assert dict(axis.channels) == {"conv1.weight": 1, "conv3.weight": 1}


def test_a_named_output_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fc' can lose no channel.*reach the model's output") as caught:
        found(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["fc"], "sparsity": 0.5}])
    assert "hint: exclude it" in str(caught.value)


def test_an_output_layer_selected_by_type_is_left_alone() -> None:
    made = found(residual(), 0.5)
    assert all("fc.weight" not in a.channels for a in made) and len(made) == 2


def test_nothing_can_be_pruned() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax(1))
    with pytest.raises(ConfigError, match="rule 0: '0' can lose no channel") as caught:
        found(net, 0.5)
    assert "softmax" in str(caught.value)


def test_the_smallest_bound_holds() -> None:
    caps = [{"op_types": ["Conv2d"], "sparsity": 0.3, "max_sparsity_per_layer": {"conv1": 0.5, "conv3": 0.4}}]
    assert [a.cap for a in found(residual(), caps)] == [0.4, 1.0]


def test_of_several_families_the_one_with_most_units() -> None:
    """Channels of `a` are (group, place): four places, three groups; the places go."""
    made = found(grouped(), [{"op_names": ["a"], "sparsity": 0.5}])
    assert [(len(a.family), dict(a.channels)) for a in made] == [(4, {"a.weight": 3})]


def test_rows_of_a_layers_output() -> None:
    model = Model.from_module(grouped())
    structure = trace(model, inputs(X))
    by_name = {layer.name: layer for layer in model.layers}
    assert outputs(structure, by_name["a"]).shape == (12, 2)
    assert not outputs(structure, by_name["fc"]).any()


def test_a_weight_the_program_does_not_use_is_fixed() -> None:
    net = Written(lambda self, x: self.a(x).mean((2, 3)) @ torch.ones(8, 2), a=nn.Conv2d(3, 8, 1), idle=nn.Linear(4, 4))
    model = Model.from_module(net)
    (idle,) = [layer for layer in model.layers if layer.name == "idle"]
    assert outputs(trace(model, inputs(X)), idle).tolist() == [[0]] * 4


def test_what_stays_is_told_before_the_run() -> None:
    rules = [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["conv3"], "exclude": True}]
    net, x = residual(), (X,)
    pipeline = agp(2) | l1(dependency_aware)
    told = dict(pipeline.explain(net, rules, example_inputs=x).staying)
    assert set(told) == {"conv1"}
    assert "coupled to 'conv3'" in told["conv1"]
    result = pipeline.run(net, rules, example_inputs=x)
    assert result.notes == (f"conv1: {told['conv1']}",)
    assert result.report.channels["conv1.weight"].removed == 0


def test_an_operation_that_keeps_channels_is_named() -> None:
    net = Written(
        lambda self, x: self.fc(torch.cumsum(self.b(self.a(x)), 1).mean((2, 3))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 6, 1),
        fc=nn.Linear(6, 2),
    )
    result = (one_shot() | l1(dependency_aware)).run(
        net, [{"op_types": ["Conv2d"], "sparsity": 0.5}], example_inputs=(X,)
    )
    assert result.notes == (
        "b: all of its 6 channels stay: they reach the model's output or cumsum in the root module",
    )
