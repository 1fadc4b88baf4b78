"""Counts, in original coordinates, and masks of weights and biases."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fprune.allocate import globally, n_m, per_layer
from fprune.allocate.budget import masks_of, removals, shares
from fprune.config import Config
from fprune.criteria import channel_norm, magnitude
from fprune.errors import ConfigError, ConfigTypeError
from fprune.layers import layers_of
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.tree import Flat


@given(st.integers(0, 1000), st.integers(1, 1000))
@example(29, 100)
@example(57, 100)
@example(9, 10)
def test_a_ratio_of_counts_removes_the_count(part: int, whole: int) -> None:
    part %= whole
    assert removals(part / whole, whole) == part


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**7))
def test_never_more_than_asked_and_never_all(sparsity: float, total: int) -> None:
    found = removals(sparsity, total)
    assert 0 <= found <= total - 1
    exact = Fraction(sparsity) * total
    assert found in {math.floor(exact), math.floor(exact + Fraction(2, 10**9))} or found == total - 1


@pytest.mark.parametrize(
    ("sparsity", "total", "expected"),
    [(0.29, 100, 29), (0.1 + 0.2, 10, 3), (0.999999999999, 1, 0), (1 - 1e-12, 64, 63), (0.5, 0, 0), (0.0, 9, 0)],
)
def test_edges(sparsity: float, total: int, expected: int) -> None:
    assert removals(sparsity, total) == expected


def test_shares_count_what_is_gone_and_what_is_masked() -> None:
    params = {"w": torch.arange(12.0).reshape(4, 3)}
    lineage = Lineage(Flat({"w": (6, 5)}), Flat({"w": (torch.tensor([0, 1, 2, 5]), torch.tensor([0, 1, 4]))}))
    masks = Masks({"w": torch.tensor([[True], [False], [True], [True]])})
    scope = Scope.of(params, masks=masks, lineage=lineage)
    rows = scope.plan(Config(0.5)).selected
    (channels,) = shares(channel_norm(), scope, rows, "channel")
    assert (channels.total, channels.gone, channels.dead) == (6, 2, 1)
    (elements,) = shares(magnitude(), scope, rows, "element")
    assert (elements.total, elements.gone, elements.dead) == (30, 18, 3)
    assert channels.present(3) == 1  # 2 of the 3 are gone
    assert channels.present(5) == 3
    assert channels.present(0) == 1  # masks only shrink


@pytest.mark.parametrize(
    "net", [nn.Conv2d(2, 6, 3), nn.Linear(2, 6), nn.ConvTranspose2d(2, 6, 3), nn.ConvTranspose2d(4, 3, 3)]
)
def test_channel_masks_cover_weight_and_bias(net: nn.Module) -> None:
    model = Model.from_module(net)
    (layer,) = model.layers
    gone = torch.arange(layer.units) == 1
    masks = masks_of([(layer, gone)], "channel")
    assert torch.equal(masks["bias"], ~gone)
    assert masks["weight"].numel() == layer.units  # never expanded
    applied = masks.apply(model)
    assert (applied["weight"].movedim(layer.axis, 0)[1] == 0).all()
    assert torch.equal(applied["weight"].movedim(layer.axis, 0)[2:], model["weight"].movedim(layer.axis, 0)[2:])


def test_element_masks_leave_the_bias_alone() -> None:
    params = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    (layer,) = layers_of(params)
    masks = masks_of([(layer, torch.eye(2) == 1)], "element")
    assert set(masks) == {"fc.weight"}
    assert torch.equal(masks["fc.weight"], torch.eye(2) == 0)


@pytest.mark.parametrize("allocation", [per_layer, globally, n_m(2, 4)])
def test_a_criterion_that_was_not_called_is_refused(allocation) -> None:
    with pytest.raises(
        ConfigTypeError, match=r"expected a criterion, got 'channel_norm'\nhint: call it: channel_norm\(\)"
    ):
        allocation(channel_norm, {"w": torch.ones(4, 4)}, Config(0.5))
    with pytest.raises(ConfigTypeError, match="expected a criterion, got 'float'"):
        allocation(0.5, {"w": torch.ones(4, 4)}, Config(0.5))


@pytest.mark.parametrize("allocation", [per_layer, n_m(2, 4)])
def test_a_shared_budget_needs_an_allocation_that_shares(allocation) -> None:
    with pytest.raises(
        ConfigError, match=r"rule 0: total_sparsity is shared over layers, and .* treats each by itself"
    ):
        allocation(magnitude(), {"w": torch.ones(4, 4)}, Config([{"total_sparsity": 0.5}]))


@pytest.mark.parametrize("allocation", [per_layer, n_m(2, 4)])
def test_more_than_a_layers_bound_is_refused(allocation) -> None:
    rule = {"sparsity": 0.5, "max_sparsity_per_layer": {"w": 0.25}}
    with pytest.raises(ConfigError, match=r"rule 0: sparsity 0\.5 of 'w' is more than its bound 0\.25"):
        allocation(magnitude(), {"w": torch.ones(4, 4), "v": torch.ones(4, 4)}, Config([rule]))


@pytest.mark.parametrize("allocation", [per_layer, globally, n_m(2, 4)])
def test_configs_are_read_in_every_form(allocation) -> None:
    params = {"w": torch.arange(16.0).reshape(4, 4)}
    assert allocation(magnitude(), params, 0.5) == allocation(magnitude(), params, [{"sparsity": 0.5}])
