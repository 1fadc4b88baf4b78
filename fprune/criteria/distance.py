"""Scores from the distances between the filters of a layer."""

import torch
from torch import Tensor

from fprune.criteria.criterion import criterion
from fprune.criteria.precision import wide_dtype

__all__ = ["geometric_distance"]

_BLOCK = 128  # filters compared with all others at a time
_ROUNDING = 1e-13  # squared distances below this share of the squared norms are rounding errors of equal filters


@criterion(grain="channel")
def geometric_distance(rows: Tensor) -> Tensor:
    """Score an output channel by its distances to the layer's other channels.

    score(j) = sum over k of ||w_j - w_k||_2. A filter near the geometric median of all has the lowest score: the
    others can stand in for it. Filters that are masked already do not take part.

    The distances come from one product of the filters with each other, in float64: ||a||^2 + ||b||^2 - 2 a.b.
    Filters nearer than 3e-7 of their norms count as equal, so that equal filters tie exactly.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])}
        >>> geometric_distance()(params, layers_of(params))["w"]
        tensor([15., 10., 15.])

    Args:
        rows: `(units, rest)`; filled in by the allocation.

    Returns:
        Scores, `(units,)`.

    References:
        He et al, `Filter Pruning via Geometric Median <https://arxiv.org/abs/1811.00250>`_, 2019
    """
    wide = rows.to(wide_dtype(rows))
    norms = torch.einsum("ij,ij->i", wide, wide)
    scores = torch.zeros_like(norms)
    for start in range(0, len(wide), _BLOCK):
        # Distances are symmetric: each block is compared with itself and with what follows.
        stop = start + _BLOCK
        both = norms[start:stop, None] + norms[start:]
        squares = torch.addmm(both, wide[start:stop], wide[start:].T, alpha=-2.0)
        squares.masked_fill_(squares <= _ROUNDING * both, 0.0)
        distances = squares.sqrt_()
        distances.fill_diagonal_(0.0)  # the block's rows are its first columns
        scores[start:stop] += distances.sum(dim=1)
        scores[stop:] += distances[:, _BLOCK:].sum(dim=0)
    return scores.to(rows.dtype)
