"""Scores from the size of the weights: of each element, or of each output channel."""

import math
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from fprune.criteria.criterion import criterion
from fprune.criteria.precision import wide_dtype
from fprune.errors import ConfigError, ConfigTypeError

__all__ = ["channel_norm", "magnitude"]

_BLOCK = 1 << 16  # elements widened at a time: they stay in the cache


def _check_order(p: object) -> None:
    if isinstance(p, bool) or not isinstance(p, Real):
        raise ConfigTypeError(f"p: expected a number, got {p!r} ({type(p).__name__})", hint="1 and 2 are usual")
    if math.isnan(p) or p <= 0:
        raise ConfigError(f"p: expected a positive number, got {p}", hint="1 and 2 are usual")


def _check_power(p: object) -> None:
    _check_order(p)
    if p == math.inf:
        raise ConfigError("p: an infinite power ranks nothing", hint="channel_norm(p=math.inf) is the largest weight")


@criterion(grain="element", check=_check_power)
def magnitude(weight: Tensor, p: float = 1) -> Tensor:
    """Score an element by its size.

    score(i) = |w_i|^p; a channel's score is the sum over its elements.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.tensor([[3.0, -1.0], [0.5, 0.5]])}
        >>> magnitude()(params, layers_of(params))["w"]
        tensor([[3.0000, 1.0000],
                [0.5000, 0.5000]])
        >>> magnitude(p=2)(params, layers_of(params), grain="channel")["w"]
        tensor([10.0000,  0.5000])

    Args:
        weight: any shape; filled in by the allocation.
        p: the power, positive and finite. It matters only for the sums over channels.

    Returns:
        Scores of the weight's shape.

    References:
        Han et al, `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015
    """
    return weight.abs() if p == 1 else weight.abs().pow(p)


def _norms(rows: Tensor, p: float) -> Tensor:
    return cast("Tensor", torch.linalg.vector_norm(rows, p, 1))  # untyped in torch's stubs


@criterion(grain="channel", check=_check_order)
def channel_norm(rows: Tensor, p: float = 1) -> Tensor:
    """Score an output channel by the norm of its weights.

    score(i) = (sum over j of |w_ij|^p)^(1/p), summed in float64 and rounded.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.tensor([[3.0, -4.0], [0.5, 0.0]])}
        >>> channel_norm(p=2)(params, layers_of(params))["w"]
        tensor([5.0000, 0.5000])

    Args:
        rows: `(units, rest)`; filled in by the allocation.
        p: the order of the norm, positive; `math.inf` is the largest weight.

    Returns:
        Scores, `(units,)`.

    References:
        Li et al, `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2016
    """
    step = max(1, _BLOCK // max(1, rows.shape[1])) if rows.device.type == "cpu" else len(rows)
    wide = torch.empty((min(step, len(rows)), rows.shape[1]), dtype=wide_dtype(rows), device=rows.device)
    parts: list[Tensor] = []
    for part in torch.split(rows, step):
        block = wide[: len(part)].copy_(part)  # one buffer: fresh memory would cost several times the sum itself
        parts.append(block.abs_().sum(1) if p == 1 else _norms(block, p))
    return torch.cat(parts).to(rows.dtype)
