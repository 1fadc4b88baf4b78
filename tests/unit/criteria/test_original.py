"""Scores go to their places in the original model and back."""

import math

import attrs
import pytest
import torch
from torch import nn

from fprune.criteria.original import original_shape, placed, taken
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.tree import Flat


def compact_scope(net: nn.Module, kept: dict[str, tuple], layer_changes: dict[str, int]) -> Scope:
    """A scope of what `kept` leaves of a net; `layer_changes` are the compact layer's own fields."""
    model = Model.from_module(net)
    lineage = attrs.evolve(Lineage.identity(model), kept=Flat(kept))
    params = lineage.slice(model.params)
    (layer,) = model.layers
    shape = tuple(params["weight"].shape)
    groups = layer_changes.get("groups", layer.groups)
    now = attrs.evolve(layer, shape=shape, groups=groups, units=shape[layer.axis] * (groups if layer.axis else 1))
    return Scope(params, (now,), None, Masks(), lineage)


def index(*values: int) -> torch.Tensor:
    return torch.tensor(values)


CASES = {
    "linear": (nn.Linear(3, 5), {"weight": (index(0, 2, 4), None), "bias": (index(0, 2, 4),)}, {}, [0, 2, 4]),
    "conv": (nn.Conv2d(2, 4, 3), {"weight": (index(1, 3), index(0), None, None), "bias": (index(1, 3),)}, {}, [1, 3]),
    "transposed": (
        nn.ConvTranspose2d(2, 4, 3),
        {"weight": (None, index(1, 2), None, None), "bias": (index(1, 2),)},
        {},
        [1, 2],
    ),
    "grouped transposed, columns": (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        {"weight": (None, index(0, 2), None, None), "bias": (index(0, 2, 3, 5),)},
        {},
        [0, 2, 3, 5],
    ),
    "grouped transposed, groups": (
        nn.ConvTranspose2d(6, 6, 3, groups=3),
        {"weight": (index(0, 1, 4, 5), None, None, None), "bias": (index(0, 1, 4, 5),)},
        {"groups": 2},
        [0, 1, 4, 5],
    ),
    "inputs only": (nn.Linear(3, 4), {"weight": (None, index(1))}, {}, [0, 1, 2, 3]),
}


@pytest.mark.parametrize("case", CASES)
def test_units_go_to_their_places_and_back(case: str) -> None:
    net, kept, changes, expected = CASES[case]
    scope = compact_scope(net, kept, changes)
    (layer,) = scope.layers
    scores = torch.arange(layer.units, dtype=torch.float32)
    found = placed(scope, layer, scores, "channel")
    assert tuple(found.shape) == original_shape(scope, layer, "channel")
    assert (found != -math.inf).nonzero().flatten().tolist() == expected
    assert torch.equal(found[expected], scores)
    assert torch.equal(taken(scope, layer, found, "channel"), scores)


@pytest.mark.parametrize("case", CASES)
def test_elements_go_to_their_places_and_back(case: str) -> None:
    net, kept, changes, _ = CASES[case]
    scope = compact_scope(net, kept, changes)
    (layer,) = scope.layers
    found = placed(scope, layer, scope["weight"], "element")
    assert tuple(found.shape) == tuple(net.weight.shape)
    present = found != -math.inf
    assert int(present.sum()) == scope["weight"].numel()
    assert torch.equal(found[present], net.weight.detach()[present])
    assert torch.equal(taken(scope, layer, found, "element"), scope["weight"])


def test_without_a_compaction_nothing_moves() -> None:
    scope = Scope.of({"w": torch.ones(2, 3)})
    scores = torch.ones(2)
    assert placed(scope, scope.layers[0], scores, "channel") is scores
    assert taken(scope, scope.layers[0], scores, "channel") is scores
