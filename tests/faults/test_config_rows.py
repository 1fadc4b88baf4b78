"""Rows 1 to 12 of the fault list: what is wrong in a config, one test a row: class, offending name, hint."""

import pytest
from torch import nn

from fprune.config import Config, Rule
from fprune.errors import ConfigError, ConfigTypeError
from fprune.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 8, 3))
    net.add_module("bn1", nn.BatchNorm2d(8))
    net.add_module("conv2", nn.Conv2d(8, 8, 3))
    net.add_module("fc", nn.Linear(8, 4))
    return Model.from_module(net)


def test_row_1_unknown_op_names(model: Model) -> None:
    rules = [{"sparsity": 0.5}, {"op_names": ["conv1"], "sparsity": 0.2}, {"op_names": ["conv3"], "exclude": True}]
    with pytest.raises(ConfigError) as caught:
        Config(rules).resolve(model)
    assert caught.value.message == "rule 2: no layer 'conv3'"
    assert caught.value.hint.startswith("Did you mean 'conv")


def test_row_2_unknown_op_types(model: Model) -> None:
    with pytest.raises(ConfigError) as caught:
        Config([{"op_types": ["Linear", "Conv2D"], "sparsity": 0.5}]).resolve(model)
    assert caught.value.message == "rule 0: no layer of type 'Conv2D'"
    assert caught.value.hint == "types in this model: 'BatchNorm2d', 'Conv2d', 'Linear'. Did you mean 'Conv2d'?"


def test_row_3_unknown_key() -> None:
    with pytest.raises(ConfigError) as caught:
        Config([{"sparsity": 0.5}, {"op_typs": ["Conv2d"], "sparsity": 0.5}])
    assert caught.value.message == "rule 1: unknown key 'op_typs'"
    assert "Did you mean 'op_types'" in caught.value.hint


def test_row_4_substring_matches_nothing(model: Model) -> None:
    with pytest.raises(ConfigError) as caught:
        Config([{"op_partial_names": ["convv"], "sparsity": 0.5}]).resolve(model)
    assert caught.value.message == "rule 0: no layer name contains 'convv'"
    assert "'conv1'" in caught.value.hint
    rules = [{"sparsity": 0.5}, {"op_partial_names": ["convv"], "exclude": True, "allow_empty": True}]
    assert len(Config(rules).resolve(model).selected) == 3


def test_row_5_above_one() -> None:
    with pytest.raises(ConfigError) as caught:
        Config([{"sparsity": 1.5}])
    assert caught.value.message == "rule 0: sparsity: expected a fraction in [0, 1), got 1.5"
    assert caught.value.hint == "1.5 % is 0.015"
    assert not isinstance(caught.value, ConfigTypeError)


def test_row_6_negative() -> None:
    with pytest.raises(ConfigError, match=r"total_sparsity: expected a fraction in \[0, 1\), got -0.5") as caught:
        Rule(total_sparsity=-0.5)
    assert "fraction to remove" in caught.value.hint


def test_row_7_nan() -> None:
    with pytest.raises(ConfigError, match=r"sparsity: .* got NaN") as caught:
        Config(float("nan"))
    assert caught.value.hint


def test_row_8_exactly_one() -> None:
    """No layer is ever emptied, so there is no option that would allow it."""
    with pytest.raises(ConfigError, match=r"sparsity: expected a fraction in \[0, 1\), got 1\.0") as caught:
        Config(1.0)
    assert "no layer is ever emptied: ask for less, such as 0.99" in caught.value.hint
    with pytest.raises(ConfigError, match="rule 0: unknown key 'allow_full'") as caught:
        Config([{"sparsity": 1.0, "allow_full": True}])
    assert "no layer is ever emptied" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "found", "hint"),
    [
        ("0.5", "got '0.5' (str)", "without"),
        (True, "got True (bool)", "0.5"),
        (5, "got the int 5", "5 % is 0.05"),
        (64, "got the int 64", "5 of 64 channels is 5 / 64"),
        (1, "got the int 1", "ratio"),
        (-1, "got the int -1", "ratio"),
    ],
)
def test_row_9_wrong_types(value: object, found: str, hint: str) -> None:
    with pytest.raises(ConfigTypeError) as caught:
        Config([{"sparsity": value}])
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.message == f"rule 0: sparsity: expected a fraction in [0, 1), {found}"
    assert (hint if hint != "without" else "leave out the quotes") in caught.value.hint


def test_row_10_a_rule_that_later_rules_override_wholly(model: Model) -> None:
    rules = [{"op_names": ["conv1"], "sparsity": 0.3}, {"op_types": ["Conv2d"], "sparsity": 0.8}]
    with pytest.raises(ConfigError) as caught:
        Config(rules).resolve(model)
    message = caught.value.message
    assert message.startswith("rule 0 has no effect: rule 1 overrides it on 'conv1'.")
    assert "rule 0 is Rule(op_names=('conv1',), sparsity=0.3)" in message
    assert "rule 1 is Rule(op_types=('Conv2d',), sparsity=0.8)" in message
    assert "general rule first" in caught.value.hint
    ordered = Config(rules[::-1]).resolve(model)
    assert (ordered["conv1"].sparsity, ordered["conv2"].sparsity) == (0.3, 0.8)


def test_row_10_a_rule_that_a_later_one_overrides_in_part_is_in_the_plan(model: Model) -> None:
    """The order of the rules says which one wins; the plan shows where that is, before anything runs."""
    plan = Config([{"sparsity": 0.3}, {"op_types": ["Conv2d"], "sparsity": 0.8}]).resolve(model)
    assert [(row.layer.name, row.rule, row.over) for row in plan.selected] == [
        ("conv1", 1, (0,)),
        ("conv2", 1, (0,)),
        ("fc", 0, ()),
    ]
    shown = {line.split()[0]: line for line in str(plan).splitlines()}
    assert "1 over 0  0.8" in shown["conv1"] and "over" not in shown["fc"]
    with pytest.raises(ConfigError, match="rule 1: unknown key 'later_wins'") as caught:
        Config([{"sparsity": 0.3}, {"op_types": ["Conv2d"], "sparsity": 0.8, "later_wins": True}])
    assert "a later rule always wins" in caught.value.hint


def test_row_11_exclude_then_include(model: Model) -> None:
    rules = [{"sparsity": 0.5}, {"op_names": ["fc"], "exclude": True}, {"op_names": ["fc"], "sparsity": 0.1}]
    with pytest.raises(ConfigError) as caught:
        Config(rules).resolve(model)
    assert "rule 1 has no effect: rule 2 overrides it on 'fc'" in caught.value.message
    assert "exclude=True" in caught.value.message
    assert "delete rule 1" in caught.value.hint
    # A wider exclude keeps an effect, so including one of its layers again is in order.
    wider = [{"sparsity": 0.5}, {"op_types": ["Conv2d"], "exclude": True}, {"op_names": ["conv2"], "sparsity": 0.1}]
    plan = Config(wider).resolve(model)
    assert plan["conv1"].excluded
    assert (plan["conv1"].over, plan["conv2"].over) == ((0,), (0, 1))
    assert plan["conv2"].sparsity == 0.1


@pytest.mark.parametrize("empty", [[], ()])
def test_row_12_empty_config(empty: object) -> None:
    with pytest.raises(ConfigError, match="would prune nothing") as caught:
        Config.of(empty)  # type: ignore[arg-type]
    assert "op_types" in caught.value.hint


def test_row_12_everything_excluded(model: Model) -> None:
    with pytest.raises(ConfigError, match="would prune nothing: every selected layer is excluded") as caught:
        Config([{"op_types": ["Linear"], "exclude": True}]).resolve(model)
    assert "'fc'" in caught.value.message
    assert caught.value.hint
