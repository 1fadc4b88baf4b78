"""Plan: which rule wins on which layer."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune.config import Config, Rule
from fprune.errors import ConfigError, ModelError
from fprune.model import Model


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def network() -> nn.Module:
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    net.add_module("conv", nn.Conv2d(8, 6, 3))
    net.add_module("up", nn.ConvTranspose2d(6, 6, 2, groups=3))
    net.add_module("fc", nn.Linear(6, 4))
    net.add_module("head", Head())
    return net


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_module(network())


def chosen(config: object, model: Model) -> set[str]:
    return {row.layer.name for row in Config.of(config).resolve(model).selected}  # type: ignore[arg-type]


def test_one_row_for_each_layer_in_module_order(model: Model) -> None:
    plan = Config(0.5).resolve(model)
    assert [row.layer for row in plan] == list(model.layers)
    assert len(plan) == len(model.layers)
    assert plan.rules == Config(0.5).rules


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, {"stem.0", "conv", "up", "fc"}),
        ({"op_types": ["default"]}, {"stem.0", "conv", "up", "fc"}),
        ({"op_types": ["Conv2d"]}, {"stem.0", "conv"}),
        ({"op_types": ["default", "BatchNorm2d"]}, {"stem.0", "stem.1", "conv", "up", "fc"}),
        ({"op_names": ["fc", "conv"]}, {"fc", "conv"}),
        ({"op_names": ["fc.weight", "head.scale"]}, {"fc", "head.scale"}),
        ({"op_names": ["stem.1"]}, {"stem.1"}),
        ({"op_partial_names": ["stem"]}, {"stem.0"}),
        ({"op_partial_names": ["stem"], "op_types": ["BatchNorm2d"]}, {"stem.1"}),
        ({"op_partial_names": ["con"], "op_names": ["stem.1"]}, {"conv", "stem.1"}),
        ({"op_types": ["Conv2d"], "op_names": ["conv", "fc"]}, {"conv"}),
        ({"op_types": ["Conv2d"], "op_partial_names": ["stem"], "op_names": ["conv"]}, {"conv", "stem.0"}),
    ],
)
def test_selectors(rule: dict[str, list[str]], expected: set[str], model: Model) -> None:
    assert chosen([{**rule, "sparsity": 0.5}], model) == expected


def test_an_excluding_substring_reaches_every_type(model: Model) -> None:
    rules = [{"op_types": ["default", "BatchNorm2d"], "sparsity": 0.5}, {"op_partial_names": ["stem"], "exclude": True}]
    assert chosen(rules, model) == {"conv", "up", "fc"}


def test_rows_carry_what_the_winning_rule_says(model: Model) -> None:
    caps = {"conv": 0.9, "up.weight": 0.8}
    rules = [
        {"total_sparsity": 0.5, "max_sparsity_per_layer": caps},
        {"op_names": ["fc"], "sparsity": 0.25},
        {"op_names": ["stem.0"], "exclude": True},
    ]
    plan = Config(rules).resolve(model)
    seen = {row.layer.name: (row.rule, row.sparsity, row.total, row.cap, row.excluded, row.named) for row in plan}
    assert seen["conv"] == (0, None, 0.5, 0.9, False, False)
    assert seen["up"] == (0, None, 0.5, 0.8, False, False)
    assert seen["fc"] == (1, 0.25, None, None, False, True)
    assert seen["stem.0"] == (2, None, None, None, True, True)
    assert seen["stem.1"] == (None, None, None, None, False, False)
    assert plan["conv.weight"] is plan["conv"]
    assert plan["up"].removes == "0.5 shared, at most 0.8"


def test_rows_say_which_units_go_and_how_many_are_kept(model: Model) -> None:
    rule = {"sparsity": 0.5, "granularity": "head", "round_to": 8, "min_kept": 16, "max_sparsity_per_layer": 0.75}
    for key, amount in (("sparsity", "0.5"), ("total_sparsity", "0.5 shared")):
        entry = {**rule, "sparsity": None, key: 0.5}
        row = Config([{k: v for k, v in entry.items() if v is not None}]).resolve(model).selected[0]
        assert (row.granularity, row.round_to, row.min_kept) == ("head", 8, 16)
        assert row.removes == f"{amount} of head, at most 0.75, kept in multiples of 8, 16 kept at least"


def test_a_scalar_cap_holds_for_each_layer(model: Model) -> None:
    plan = Config([{"sparsity": 0.5, "max_sparsity_per_layer": 0.75}]).resolve(model)
    assert {row.cap for row in plan.selected} == {0.75}


def test_the_table_is_text_and_html(model: Model) -> None:
    plan = Config([{"sparsity": 0.5}, {"op_names": ["fc"], "exclude": True}]).resolve(model)
    lines = str(plan).splitlines()
    assert lines[0] == "Plan: 3 of 7 layers"
    assert lines[1].split() == ["layer", "type", "shape", "rule", "removes", "note"]
    assert ["conv", "Conv2d", "6x8x3x3", "0", "0.5"] in [line.split() for line in lines]
    assert ["fc", "Linear", "4x6", "1", "over", "0", "excluded"] in [line.split() for line in lines]
    assert repr(plan) == "Plan(3 of 7 layers, 2 rules)"
    assert plan._repr_html_().count("<tr>") == 8


def test_an_unknown_name_in_the_plan_has_a_hint(model: Model) -> None:
    with pytest.raises(ConfigError, match="no layer 'con' in the plan") as caught:
        Config(0.5).resolve(model)["con"]
    assert "'conv'" in caught.value.hint


@pytest.mark.parametrize(
    ("rule", "message", "hint"),
    [
        ({"op_names": ["stem"]}, "rule 0: no layer 'stem'", "op_partial_names=['stem.'] selects them"),
        ({"op_names": ["fc.bias"]}, "rule 0: no layer 'fc.bias'", "name 'fc'"),
        ({"op_names": ["con*"]}, "rule 0: no layer 'con*'", "op_names are exact"),
        ({"op_names": ["zzz"]}, "rule 0: no layer 'zzz'", "layers: 'stem.0'"),
        ({"op_names": ["conv", "head.scales"]}, "rule 0: no layer 'head.scales'", "head.scale"),
        ({"op_partial_names": ["head"]}, "rule 0: no layer matches", "add op_types=['Head']"),
        ({"op_types": ["Linear"], "op_names": ["conv"]}, "rule 0: no layer matches", "types in this model"),
        ({"max_sparsity_per_layer": {"cnv": 0.5}}, "rule 0: max_sparsity_per_layer names 'cnv'", "'conv'"),
        (
            {"op_names": ["fc"], "max_sparsity_per_layer": {"conv": 0.5}},
            "rule 0: max_sparsity_per_layer names 'conv'",
            "it selects: 'fc'",
        ),
    ],
)
def test_what_matches_nothing_is_refused(rule: dict[str, object], message: str, hint: str, model: Model) -> None:
    with pytest.raises(ConfigError) as caught:
        Config([{**rule, "sparsity": 0.5}]).resolve(model)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_no_default_layer_at_all() -> None:
    with pytest.raises(ConfigError, match="rule 0: no layer of type 'default'"):
        Config([{"op_types": ["default"], "sparsity": 0.5}]).resolve({"gain": torch.ones(3)})
    with pytest.raises(ConfigError, match="rule 0: no layer matches"):
        Config(0.5).resolve({"gain": torch.ones(3)})


def test_allow_empty_takes_all_of_it(model: Model) -> None:
    empty = {"op_types": ["LSTM"], "op_names": ["x"], "op_partial_names": ["y"], "sparsity": 0.5, "allow_empty": True}
    assert chosen([{"sparsity": 0.5}, empty], model) == chosen(0.5, model)
    with pytest.raises(ConfigError, match="would prune nothing: no layer is selected"):
        Config([empty]).resolve(model)


def test_several_rules_can_override_one_together(model: Model) -> None:
    rules = [
        {"op_types": ["Conv2d"], "sparsity": 0.5},
        {"op_names": ["conv"], "sparsity": 0.1},
        {"op_names": ["stem.0"], "exclude": True},
    ]
    with pytest.raises(ConfigError, match="rule 0 has no effect: rule 1 and rule 2 override it on 'stem"):
        Config(rules).resolve(model)


def test_a_model_without_parameters() -> None:
    with pytest.raises(ModelError, match="no parameters"):
        Config(0.5).resolve(Model.from_module(nn.ReLU()))
    with pytest.raises(ModelError, match="no parameters"):
        Config(0.5).resolve({})


def test_empty_layers_are_shown_and_skipped() -> None:
    plan = Config(0.5).resolve({"none": torch.ones(0, 3), "some": torch.ones(2, 3)})
    assert (plan["none"].note, plan["none"].selected, plan["some"].selected) == ("empty", False, True)


def test_frozen_layers_are_pruned_and_shown() -> None:
    net = network()
    net.get_submodule("fc").requires_grad_(False)
    plan = Config(0.5).resolve(Model.from_module(net))
    assert (plan["fc"].note, plan["fc"].selected) == ("frozen (requires_grad=False)", True)
    assert plan["conv"].note == ""
    plain = {"a": torch.ones(2, 2), "b": nn.Parameter(torch.ones(2, 2), requires_grad=False)}
    assert [row.note for row in Config(0.5).resolve(plain)] == ["", "frozen (requires_grad=False)"]


def test_tied_layers_answer_to_every_name() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    net["head"].weight = net["embed"].weight
    model = Model.from_module(net)
    assert len(Config(0.5).resolve(model)) == 1
    for name in ("embed", "head", "embed.weight", "head.weight"):
        plan = Config([{"op_names": [name], "sparsity": 0.5}]).resolve(model)
        assert plan[name].named
        assert plan["embed"] == plan["head"]


def test_resolve_reads_shapes_only(model: Model) -> None:
    meta = {name: value.to("meta") for name, value in model.items()}
    assert Config(0.5).resolve(meta) == Config(0.5).resolve(dict(model))


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 2**32))
def test_the_last_rule_that_selects_a_layer_wins(order: list[str], bits: int) -> None:
    params = {name: torch.ones(2, 2) for name in order}
    rules = [Rule(sparsity=0.5)]
    for i in range(3):
        picked = [name for k, name in enumerate("abcd") if bits >> (4 * i + k) & 1]
        if picked:
            exclude = bool(bits >> (16 + i) & 1)
            rules.append(Rule(op_names=picked, exclude=exclude, sparsity=None if exclude else 0.1 * (i + 1)))
    expected = {name: max(i for i, r in enumerate(rules) if i == 0 or name in r.op_names) for name in order}
    dead = set(range(len(rules))) - set(expected.values())
    if dead or all(rules[i].exclude for i in expected.values()):
        with pytest.raises(ConfigError, match=r"has no effect|would prune nothing"):
            Config(rules).resolve(params)
        return
    plan = Config(rules).resolve(params)
    assert {row.layer.name: row.rule for row in plan} == expected
    assert all(row.excluded == rules[expected[row.layer.name]].exclude for row in plan)
    assert plan == Config(rules).resolve(params)
    assert attrs.evolve(plan, rows=plan.rows[:-1]) != plan
