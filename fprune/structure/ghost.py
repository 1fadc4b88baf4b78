"""Normalisation and means over a dimension of which zero slices were removed: computed as if they were still there."""

import math

import torch
from torch import Tensor, nn


def ghost_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, width: int, eps: float) -> Tensor:
    """Layer norm of `x` with `width - C` zeros appended to its last dimension, restricted to the C stored entries."""
    return _scaled(_standardised(x, [-1], x.shape[-1] / width, eps), weight, bias, -1)


def ghost_group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, width: int, eps: float) -> Tensor:
    """Group norm with one group over `width` channels of which those that are not stored are zero."""
    return _scaled(_standardised(x, list(range(1, x.ndim)), x.shape[1] / width, eps), weight, bias, 1)


def ghost_block_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, stored: float, eps: float
) -> Tensor:
    """Layer norm over the last `dims` dimensions, of which zero slices were removed, all but the fraction `stored`."""
    x = _standardised(x, list(range(-dims, 0)), stored, eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def ghost_batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, stored: float, eps: float) -> Tensor:
    """Batch norm by the statistics of `x`, of which zero positions were removed, all but the fraction `stored`."""
    return _scaled(_standardised(x, [0, *range(2, x.ndim)], stored, eps), weight, bias, 1)


def ghost_rms_norm(x: Tensor, weight: Tensor | None, width: int, eps: float | None) -> Tensor:
    """RMS norm over `width` entries of which those that are not stored are zero."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _scaled(x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / width + eps), weight, None, -1)


def ghost_mean(x: Tensor, dims: list[int], keepdim: bool, stored: float) -> Tensor:
    """Mean over dimensions of which zero slices were removed, all but the fraction `stored`."""
    return x.mean(dims, keepdim=keepdim) * stored


def ghost_var_mean(
    x: Tensor, dims: list[int], correction: float, keepdim: bool, stored: float
) -> tuple[Tensor, Tensor]:
    """Variance and mean over dimensions of which zero slices were removed, all but the fraction `stored`.

    With the mean m and the variance v of the n stored entries, f = `stored` and N = n / f:

        mean = f m;  var = (f v + f (1 - f) m^2) N / (N - correction)
    """
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=keepdim)
    var = stored * var + stored * (1 - stored) * mean.square()
    if correction:
        count = round(math.prod(x.shape[d] for d in dims) / stored)
        var = var * (count / (count - correction))
    return var, stored * mean


def ghost_var(x: Tensor, dims: list[int], correction: float, keepdim: bool, stored: float) -> Tensor:
    """Variance over dimensions of which zero slices were removed, all but the fraction `stored`."""
    return ghost_var_mean(x, dims, correction, keepdim, stored)[0]


def ghost_std(x: Tensor, dims: list[int], correction: float, keepdim: bool, stored: float) -> Tensor:
    """Standard deviation over dimensions of which zero slices were removed, all but the fraction `stored`."""
    return ghost_var(x, dims, correction, keepdim, stored).sqrt()


def ghost_std_mean(
    x: Tensor, dims: list[int], correction: float, keepdim: bool, stored: float
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean over dimensions of which zero slices were removed, all but the fraction `stored`."""
    var, mean = ghost_var_mean(x, dims, correction, keepdim, stored)
    return var.sqrt(), mean


def _standardised(x: Tensor, dims: list[int], stored: float, eps: float) -> Tensor:
    var, mean = ghost_var_mean(x, dims, 0, True, stored)
    return (x - mean) * torch.rsqrt(var + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int) -> Tensor:
    place = [-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]
    x = x if weight is None else x * weight.view(place)
    return x if bias is None else x + bias.view(place)


class GhostLayerNorm(nn.Module):
    """A layer norm that keeps the statistics of its original width after zero channels were removed.

    With the mean m and the variance v over all N = `width` channels, those that are not stored being zero:

        y_c = (x_c - m) / sqrt(v + eps) weight_c + bias_c

    Examples:
        >>> norm = GhostLayerNorm(None, None, width=4, eps=0.0)
        >>> norm(torch.tensor([1.0, 3.0]))  # as (1, 3, 0, 0): mean 1, variance 1.5
        tensor([0.0000, 1.6330])

    Args:
        weight: scale of the stored channels, or None.
        bias: shift of the stored channels, or None.
        width: the original number of channels.
        eps: added to the variance.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, width: int, eps: float) -> None:
        """Take over the (already cut) affine parameters."""
        super().__init__()
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)
        self.width = width
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return ghost_layer_norm(x, self.weight, self.bias, self.width, self.eps)

    def extra_repr(self) -> str:
        """The original width."""
        return f"width={self.width}, eps={self.eps}"


class GhostGroupNorm(GhostLayerNorm):
    """A group norm with one group that keeps the statistics of its original width.

    Examples:
        >>> norm = GhostGroupNorm(None, None, width=4, eps=0.0)
        >>> norm(torch.tensor([[[1.0], [3.0]]])).flatten()  # as channels 1, 3, 0, 0
        tensor([0.0000, 1.6330])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise all dimensions but the first."""
        return ghost_group_norm(x, self.weight, self.bias, self.width, self.eps)


class GhostRMSNorm(GhostLayerNorm):
    """An RMS norm that keeps the statistics of its original width.

        y_c = x_c / sqrt(sum_c x_c^2 / width + eps) weight_c

    Examples:
        >>> norm = GhostRMSNorm(None, None, width=4, eps=0.0)
        >>> norm(torch.tensor([2.0, 4.0]))  # as (2, 4, 0, 0): mean square 5
        tensor([0.8944, 1.7889])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return ghost_rms_norm(x, self.weight, self.width, self.eps)
