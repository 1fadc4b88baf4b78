"""Sizes of weights and norms of channels."""

import math

import pytest
import torch

from fprune.criteria import channel_norm, magnitude
from fprune.criteria.magnitude import _BLOCK
from fprune.errors import ConfigError, ConfigTypeError
from fprune.layers import layers_of


@pytest.mark.parametrize(
    ("p", "expected"), [(1, [7.0, 2.0]), (2, [5.0, 2.0]), (math.inf, [4.0, 2.0]), (0.5, [13.928203582763672, 2.0])]
)
def test_norms_of_channels(p: float, expected: list[float]) -> None:
    params = {"w": torch.tensor([[3.0, -4.0], [0.0, -2.0]])}
    assert channel_norm(p)(params, layers_of(params))["w"].tolist() == expected


def test_channel_norm_reads_all_but_the_output_axis() -> None:
    params = {"w": torch.arange(24.0).reshape(2, 3, 2, 2)}
    assert channel_norm(p=1)(params, layers_of(params))["w"].tolist() == [66.0, 210.0]


def test_large_layers_are_widened_in_parts() -> None:
    params = {"w": torch.ones(5, _BLOCK // 2)}
    assert channel_norm(p=1)(params, layers_of(params))["w"].tolist() == [_BLOCK / 2] * 5


def test_the_order_of_the_terms_makes_no_difference() -> None:
    weight = torch.randn(16, 4608, generator=torch.Generator().manual_seed(0))
    shuffled = weight[:, torch.randperm(4608, generator=torch.Generator().manual_seed(1))]
    for p in (1, 2):
        plain, other = ({"w": w} for w in (weight, shuffled))
        one, two = (channel_norm(p)(params, layers_of(params))["w"] for params in (plain, other))
        assert torch.equal(one, two)


def test_zeros_among_the_terms_make_no_difference() -> None:
    weight = torch.randn(8, 600, generator=torch.Generator().manual_seed(0))
    wide = torch.zeros(8, 1800)
    wide[:, 1::3] = weight
    one, two = (channel_norm(p=2)({"w": w}, layers_of({"w": w}))["w"] for w in (weight, wide))
    assert torch.equal(one, two)


def test_powers_of_magnitude() -> None:
    params = {"w": torch.tensor([[3.0, -4.0]])}
    assert magnitude()(params, layers_of(params))["w"].tolist() == [[3.0, 4.0]]
    assert magnitude(p=2)(params, layers_of(params))["w"].tolist() == [[9.0, 16.0]]


@pytest.mark.parametrize("make", [magnitude, channel_norm])
def test_impossible_orders_are_refused(make: object) -> None:
    for p in (0, -1, math.nan):
        with pytest.raises(ConfigError, match="expected a positive number"):
            make(p)
    for p in ("2", True, None):
        with pytest.raises(ConfigTypeError, match="p: expected a number"):
            make(p)
    with pytest.raises(ConfigError, match="infinite power"):
        magnitude(math.inf)
