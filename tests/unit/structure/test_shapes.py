"""The shape arithmetic that stands in for meta kernels gives what the operators themselves give."""

import itertools
from typing import Any

import pytest
import torch

from fprune.structure.operators import aten, bind
from fprune.structure.shapes import SHAPES


def given(op: Any, *args: Any) -> tuple[int, ...]:
    return SHAPES[op._schema.name.split("::")[1]](tuple(args[0].shape), bind(op, args, {}))


@pytest.mark.parametrize("nd", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    list(itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), (1, 2))),
)
def test_convolutions(nd: int, kernel: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    x, sizes = torch.zeros(2, 4, *range(9, 9 + nd)), [kernel] * nd
    op = aten(f"conv{nd}d")
    args = (x, torch.zeros(6, 4 // groups, *sizes), None, [stride] * nd, [padding], [dilation] * nd, groups)
    assert given(op, *args) == tuple(op(*args).shape)
    op, extra = aten(f"conv_transpose{nd}d", "default" if nd == 1 else "input"), [stride - 1] * nd
    args = (x, torch.zeros(4, 6, *sizes), None, [stride] * nd, [padding], extra, groups, [dilation] * nd)
    if padding <= dilation * (kernel - 1):
        assert given(op, *args) == tuple(op(*args).shape)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_padding_by_name(padding: str, kernel: int) -> None:
    args = (torch.zeros(2, 3, 9, 8), torch.zeros(5, 3, kernel, kernel), None, [1, 1], padding, [2, 2], 1)
    assert given(aten("conv2d", "padding"), *args) == tuple(aten("conv2d", "padding")(*args).shape)


def test_unbatched_convolution() -> None:
    args = (torch.zeros(3, 9, 8), torch.zeros(5, 3, 2, 2), None, [1, 1], [0, 0], [1, 1], 1)
    assert given(aten("conv2d"), *args) == tuple(aten("conv2d")(*args).shape)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_linear(lead: tuple[int, ...]) -> None:
    args = (torch.zeros(*lead, 4), torch.zeros(5, 4))
    assert given(aten("linear"), *args) == tuple(aten("linear")(*args).shape)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [[0], [-1], [1, 2], [-1, 0], []])
def test_mean(dim: list[int], keepdim: bool) -> None:
    args = (torch.zeros(2, 3, 4), dim, keepdim)
    assert given(aten("mean", "dim"), *args) == tuple(aten("mean", "dim")(*args).shape)


def test_mean_of_everything() -> None:
    assert given(aten("mean"), torch.zeros(2, 3)) == ()


@pytest.mark.parametrize("size", [[1, 1], [2, 3]])
def test_pools(size: list[int]) -> None:
    args = (torch.zeros(2, 3, 6, 7), size)
    assert given(aten("adaptive_avg_pool2d"), *args) == tuple(aten("adaptive_avg_pool2d")(*args).shape)


@pytest.mark.parametrize("nd", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    list(itertools.product((2, 3), ([], [1], [2], [3]), (0, 1), (1, 2), (False, True))),
)
def test_max_pools(nd: int, kernel: int, stride: list[int], padding: int, dilation: int, ceil: bool) -> None:
    op = aten(f"max_pool{nd}d")
    args = (torch.zeros(2, 3, *range(7, 7 + nd)), [kernel] * nd, stride * nd, [padding], [dilation] * nd, ceil)
    assert given(op, *args) == tuple(op(*args).shape)
