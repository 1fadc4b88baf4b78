"""Rule and Config: reading, values, equality, text, scaling."""

import copy
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune.config import Config, Rule
from fprune.errors import ConfigError, ConfigTypeError
from fprune.fields import ratio
from fprune.tree import Flat

fractions = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
names = st.lists(st.text("abc.12", min_size=1, max_size=6), max_size=3).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    selectors = {key: draw(names) for key in ("op_types", "op_names", "op_partial_names")}
    flag = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        return Rule(**selectors, exclude=True, allow_empty=flag)
    amount = draw(fractions)
    cap = draw(
        st.one_of(st.none(), st.just(1.0), st.dictionaries(st.text("abc", min_size=1), st.just(0.5), min_size=1))
    )
    key = draw(st.sampled_from(["sparsity", "total_sparsity"]))
    kind = draw(st.sampled_from([None, "head", "head_dim", "channel", "family:fc1.weight"]))
    counts = {key: draw(st.integers(1, 64)) for key in ("round_to", "min_kept")}
    return Rule(**selectors, **{key: amount}, max_sparsity_per_layer=cap, allow_empty=flag, granularity=kind, **counts)


configs = st.lists(rules(), min_size=1, max_size=4).map(Config)


@given(configs)
def test_lists_json_repr_and_pickle_bring_the_same_config_back(config: Config) -> None:
    assert Config.from_list(json.loads(json.dumps(config.to_list()))) == config
    assert eval(repr(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert hash(eval(repr(config))) == hash(config)
    assert "\n" not in repr(config)
    assert config._repr_html_().count("<table") == 1


@given(configs, st.floats(0, 1))
def test_scaled_multiplies_every_amount_and_ends_exactly_at_the_target(config: Config, factor: float) -> None:
    assert config.scaled(1) is config.scaled(1.0) is config
    for before, after in zip(config.rules, config.scaled(factor).rules, strict=True):
        assert after.amount == before.amount * factor
        assert (after.op_types, after.op_names, after.exclude) == (before.op_types, before.op_names, before.exclude)
        assert after.max_sparsity_per_layer == before.max_sparsity_per_layer
        assert (after.sparsity is None, after.total_sparsity is None) == (
            before.sparsity is None,
            before.total_sparsity is None,
        )


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_scaled_refuses_factors_outside_the_unit_interval(bad: float) -> None:
    with pytest.raises(ConfigError, match="scaled: expected a factor in"):
        Config(0.5).scaled(bad)


@pytest.mark.parametrize("bad", [True, "0.5", None])
def test_scaled_refuses_what_is_no_number(bad: object) -> None:
    with pytest.raises(ConfigTypeError, match="scaled"):
        Config(0.5).scaled(bad)  # type: ignore[arg-type]


def test_map_names_the_rule_whose_result_is_illegal() -> None:
    config = Config([{"op_names": ["a"], "exclude": True}, {"sparsity": 0.6}])
    assert config.map(lambda s: s / 2).rules == (config.rules[0], Rule(sparsity=0.3))
    with pytest.raises(ConfigError, match=r"rule 1: sparsity: .*got 1.2"):
        config.map(lambda s: 2 * s)


def test_of_reads_every_form() -> None:
    config = Config(0.5)
    assert Config.of(config) is config
    for form in (
        0.5,
        Rule(sparsity=0.5),
        {"sparsity": 0.5},
        [{"sparsity": 0.5}],
        (Rule(sparsity=0.5),),
        np.float32(0.5),
    ):
        assert Config.of(form) == config == Config(form) == Config.uniform(0.5)  # type: ignore[arg-type]
    assert Config.of(0) == Config(0.0)
    assert Config([{"sparsity_per_layer": 0.5}]) == config


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, "expected a config, got NoneType"),
        (nn.Linear(1, 1), "expected a config, got Linear"),
        ("0.5", r"got '0.5' \(str\)"),
        (torch.tensor(0.5), "got a Tensor"),
        (True, r"got True \(bool\)"),
        ([0.5], r"rule 0: expected a Rule or a dict, got 0.5 \(float\)"),
        ([{"sparsity": 0.5}, "Conv2d"], "rule 1: expected a Rule or a dict, got 'Conv2d'"),
        ([{3: 0.5}], "rule 0: expected keys that are strings, got 3"),
    ],
)
def test_of_refuses_other_things(form: object, expected: str) -> None:
    with pytest.raises(ConfigTypeError, match=expected) as caught:
        Config.of(form)  # type: ignore[arg-type]
    assert caught.value.hint


def test_from_list_wants_a_list() -> None:
    with pytest.raises(ConfigTypeError, match="expected a list of dicts, got float"):
        Config.from_list(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 0.999, Fraction(1, 3), np.float32(0.25), np.float64(0.5), np.int64(0)])
def test_legal_fractions(value: float) -> None:
    assert ratio(value, "sparsity") == float(value)
    assert type(ratio(value, "sparsity")) is float
    assert repr(ratio(-0.0, "sparsity")) == "0.0"


@pytest.mark.parametrize("value", [None, [0.5], 1j, np.array([0.5, 0.5]), np.True_, object()])
def test_other_types_are_named(value: object) -> None:
    with pytest.raises(ConfigTypeError, match=type(value).__name__):
        ratio(value, "sparsity")


@pytest.mark.parametrize(("value", "hint"), [(80.0, "80 % is 0.8"), (1e9, "one half"), (float("inf"), "one half")])
def test_percent_is_explained(value: float, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rule(sparsity=value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"op_types": ["Conv2d"]}, "does not say how much to remove"),
        ({"exclude": False}, "does not say how much to remove"),
        ({"sparsity": 0.5, "total_sparsity": 0.5}, "sparsity and total_sparsity exclude each other"),
        ({"sparsity": 0.5, "sparsity_per_layer": 0.5}, "are the same key"),
        ({"sparsity": 0.5, "exclude": True}, "exclude=True contradicts sparsity"),
        ({"total_sparsity": 0, "exclude": True}, "exclude=True contradicts total_sparsity"),
        ({"max_sparsity_per_layer": 0.5, "exclude": True}, "exclude=True contradicts max_sparsity_per_layer"),
        ({"sparsity": 0.8, "max_sparsity_per_layer": 0.5}, "sparsity 0.8 is more than max_sparsity_per_layer 0.5"),
        ({"sparsity": 0.5, "op_types": []}, "op_types: the list is empty"),
        ({"sparsity": 0.5, "op_names": ["a", ""]}, "op_names: expected names, got an empty string"),
        ({"sparsity": 0.5, "max_sparsity_per_layer": {}}, "max_sparsity_per_layer: the mapping is empty"),
        ({"sparsity": 0.5, "max_sparsity_per_layer": {"a": 2.5}}, r"max_sparsity_per_layer\['a'\]: .*got 2.5"),
        ({"sparsity": 0.5, "max_sparsity_per_layer": 0.0}, r"expected a fraction in \(0, 1\], got 0.0"),
    ],
)
def test_contradictions_are_refused(entry: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"rule 0: .*{expected}") as caught:
        Config([entry])
    assert caught.value.hint
    assert not isinstance(caught.value, ConfigTypeError)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"op_types": "Conv2d"}, r"op_types: expected a list of names, got 'Conv2d' \(str\)"),
        ({"op_types": nn.Conv2d}, "op_types: expected a list or tuple of names, got type"),
        ({"op_types": {"Conv2d"}}, "op_types: expected a list or tuple of names, got set"),
        ({"op_types": [nn.Conv2d]}, "op_types: expected names, got the class Conv2d"),
        ({"op_names": [3]}, r"op_names: expected names, got 3 \(int\)"),
        ({"exclude": 1}, r"exclude: expected True or False, got 1 \(int\)"),
        ({"allow_empty": "yes"}, "allow_empty: expected True or False, got 'yes'"),
        ({"max_sparsity_per_layer": 2}, "max_sparsity_per_layer: .*got the int 2"),
        ({"max_sparsity_per_layer": 0}, "max_sparsity_per_layer: .*got the int 0"),
        ({"max_sparsity_per_layer": {3: 0.5}}, "max_sparsity_per_layer: expected layer names as keys, got 3"),
    ],
)
def test_wrong_types_are_refused(entry: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigTypeError, match=f"rule 0: {expected}") as caught:
        Config([{"sparsity": 0.5, **entry}])
    assert caught.value.hint


def test_exclude_false_does_not_exclude() -> None:
    assert Config([{"sparsity": 0.5, "exclude": False}]) == Config(0.5)


def test_rho_belongs_to_the_pruner() -> None:
    with pytest.raises(ConfigError, match="rule 0: unknown key 'rho'") as caught:
        Config([{"sparsity": 0.5, "rho": 0.1}])
    assert "admm" in caught.value.hint


def test_caps_are_read() -> None:
    assert Rule(sparsity=0.5, max_sparsity_per_layer=1).max_sparsity_per_layer == 1.0
    capped = Rule(sparsity=0.5, max_sparsity_per_layer={"b": 0.9, "a": 1})
    assert capped.max_sparsity_per_layer == Flat({"a": 1.0, "b": 0.9})
    assert repr(capped) == "Rule(sparsity=0.5, max_sparsity_per_layer={'a': 1.0, 'b': 0.9})"
    assert capped != Rule(sparsity=0.5, max_sparsity_per_layer={"a": 1, "b": 0.8})


def test_records_are_frozen_and_leave_their_arguments_alone() -> None:
    entry = {"op_types": ["Conv2d"], "sparsity": 0.5, "max_sparsity_per_layer": {"a": 0.9}}
    before = copy.deepcopy(entry)
    config = Config([entry])
    entry["op_types"].append("Linear")  # type: ignore[attr-defined]
    assert config.to_list() == [before]
    with pytest.raises(AttributeError):
        config.rules = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.rules[0].sparsity = 0.1  # type: ignore[misc]


def test_reprs() -> None:
    assert repr(Config(0.8)) == "Config(0.8)"
    assert repr(Config([{"total_sparsity": 0.8}])) == "Config([Rule(total_sparsity=0.8)])"
    assert repr(Config([{"sparsity": 0.8, "allow_empty": True}])) == "Config([Rule(sparsity=0.8, allow_empty=True)])"
    assert repr(Config([{"sparsity": 0.8}, {"op_names": ["fc"], "exclude": True}])) == (
        "Config([Rule(sparsity=0.8), Rule(op_names=('fc',), exclude=True)])"
    )
    assert "<b>" not in Rule(op_names=["<b>"], sparsity=0.5)._repr_html_()
