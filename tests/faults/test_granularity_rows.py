"""What is wrong in the keys about units: class, what was found, and what to write instead."""

from typing import Any

import pytest
import torch
from torch import nn

from fprune import Config, Model, dependency_aware, inputs, l1
from fprune.errors import ConfigError, ConfigTypeError
from tests.unit.allocate.test_granularity import X, block


@pytest.mark.parametrize(
    ("entry", "found", "hint"),
    [
        ({"granularity": "heads"}, "granularity: expected 'head', .* got 'heads'", "Did you mean 'head'"),
        ({"granularity": "filter"}, "granularity: expected 'head', .* got 'filter'", "lists the families"),
        ({"granularity": "family:"}, "granularity: expected .* got 'family:'", "lists the families"),
        ({"granularity": ""}, "granularity: expected .* got ''", "lists the families"),
        ({"round_to": 0}, "round_to: expected 1 or more units, got 0", "write 8"),
        ({"min_kept": -1}, "min_kept: expected 1 or more units, got -1", "write 8"),
        ({"granularty": "head"}, "unknown key 'granularty'", "Did you mean 'granularity'"),
        ({"round_too": 8}, "unknown key 'round_too'", "Did you mean 'round_to'"),
    ],
)
def test_wrong_values(entry: dict[str, Any], found: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"rule 0: {found}") as caught:
        Config([{"sparsity": 0.5, **entry}])
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"granularity": 1}, r"granularity: expected .* got 1 \(int\)"),
        ({"granularity": ["head"]}, r"granularity: expected .* got \['head'\] \(list\)"),
        ({"round_to": 8.0}, r"round_to: expected a number of units, got 8.0 \(float\)"),
        ({"round_to": True}, r"round_to: expected a number of units, got True \(bool\)"),
        ({"min_kept": "4"}, r"min_kept: expected a number of units, got '4' \(str\)"),
        ({"min_kept": None}, r"min_kept: expected a number of units, got None \(NoneType\)"),
    ],
)
def test_wrong_types(entry: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigTypeError, match=f"rule 0: {found}") as caught:
        Config([{"sparsity": 0.5, **entry}])
    assert caught.value.hint


@pytest.mark.parametrize("entry", [{"granularity": "head"}, {"round_to": 8}, {"min_kept": 2}])
def test_excluding_leaves_no_units_to_name(entry: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"rule 0: exclude=True contradicts {next(iter(entry))}"):
        Config([{"exclude": True, **entry}])


def refused(model: Model, rules: Any, x: Any = X) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        l1(dependency_aware).masks(model, Config.of(rules), example_inputs=inputs(x))
    return caught.value


def test_units_that_the_layers_do_not_have() -> None:
    error = refused(block(), [{"op_names": ["fc1"], "sparsity": 0.5, "granularity": "head"}])
    assert error.message == "rule 0: granularity 'head' names no units of 'fc1'"
    assert error.hint == "these layers have them: 'q', 'k', 'v'; select them, by op_names or op_types"


def test_one_of_several_named_layers_does_not_have_them() -> None:
    error = refused(block(), [{"op_names": ["q", "fc1"], "sparsity": 0.5, "granularity": "head"}])
    assert error.message == "rule 0: granularity 'head' names no units of 'fc1'"


def test_units_that_the_model_does_not_have() -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    error = refused(model, [{"sparsity": 0.5, "granularity": "head"}], torch.ones(1, 6))
    assert error.message == "rule 0: granularity 'head' names no units of any layer it selects"
    assert error.hint == "'0' has 'channel' ('family:0.weight')"


def test_a_family_with_another_name() -> None:
    error = refused(block(), [{"sparsity": 0.5, "granularity": "family:fc1.weigth"}])
    assert error.message == "rule 0: granularity 'family:fc1.weigth' names no units of any layer it selects"
    assert error.hint.startswith("Did you mean 'family:fc1.weight'")


@pytest.mark.parametrize(
    ("entry", "told", "reachable"),
    [
        ({"round_to": 16}, "multiples of 16", "1 to 12"),
        ({"round_to": 5, "min_kept": 11}, "multiples of 5, 11 at least", "1, 2, 3, 4, 6, 11, 12"),
    ],
)
def test_multiples_out_of_reach(entry: dict[str, Any], told: str, reachable: str) -> None:
    error = refused(block(), [{"op_names": ["stem"], "sparsity": 0.05, **entry}])
    assert error.message == f"rule 0: 'fc2.weight' has 12 units, which cannot be kept in {told}"
    assert error.hint == f"round_to can be {reachable} here; give 'stem' another rule"


def test_a_total_out_of_reach_of_multiples() -> None:
    rule = {"op_names": ["stem", "fc1"], "total_sparsity": 0.6, "round_to": 10}
    error = refused(block(), [rule])
    assert "total_sparsity 0.6 is out of reach" in error.message
    assert "ask for at most 0.375" in error.hint
