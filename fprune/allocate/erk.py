"""Densities from the shapes of the layers, as Erdos-Renyi kernels have them."""

from collections.abc import Mapping
from math import prod

from torch import Tensor

from fprune.allocate.fill import along
from fprune.allocate.needing import needing
from fprune.allocate.parameters import refuses_beyond
from fprune.allocate.pool import Pool, pooled
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.criteria.original import original_shape
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["erk"]


@needing(refuses=refuses_beyond("erk"))
def erk(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Keep large layers sparser than small ones, in the proportions of an Erdos-Renyi kernel.

    `density_l = min(1, eps * sum(shape_l) / prod(shape_l))`, with `(in + out + kh + kw) / (in * out * kh * kw)` for a
    convolution. The factor eps, one for all layers of a rule, is such that `floor(s * n)` of their n elements or
    channels go; layers that it would make denser than dense stay dense. Within a layer the lowest scores go. Both
    `sparsity` and `total_sparsity` give the amount of a rule.

    Examples:
        >>> import torch
        >>> from fprune import level
        >>> params = {"small": torch.arange(100.0).view(10, 10), "large": torch.arange(1600.0).view(40, 40)}
        >>> masks = level(erk).masks(params, Config(0.8))
        >>> [int(masks[name].sum()) for name in ("small", "large")]
        [68, 272]

    That is 340 of 1700, at densities of .68 and .17.

    Args:
        criterion: what scores; its grain decides whether elements or channels go.
        params: name -> weight; a `Model` is one.
        config: what to prune and how much.

    Returns:
        One bool mask for each selected weight; channels are masked in the bias too.

    Raises:
        ConfigError: the bounds do not allow the amount; the message has the amount they allow.
        ModelError: a weight is not finite.
        ScoreError: a score is not finite.

    References:
        Evci et al, `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020
    """
    scope = Scope.of(params)

    def mark(pool: Pool, count: int) -> dict[str, Tensor]:
        shapes = [original_shape(scope, share.row.layer, "element") for share in pool.shares]
        parts = [sum(shape) / prod(shape) for shape in shapes]
        return along(pool, count, lambda level: [1 + level * part for part in parts], (-1 / min(parts), 0.0))

    return pooled("erk", mark, criterion, scope, config)
