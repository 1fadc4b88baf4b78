"""Blocks of a weight that go as one."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias, final, get_args

import attrs
import torch
from torch import Tensor

from fprune.allocate.blocks import Blocks, kernels
from fprune.allocate.budget import Share, layer_rows, local_rows, masks_of, removals, shares
from fprune.allocate.selection import lowest
from fprune.allocate.ties import told
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.criteria.original import original_layer, placed, taken
from fprune.errors import ConfigError, ConfigTypeError
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["Block", "Pooling", "block"]

Pooling: TypeAlias = Literal["sum", "max"]

_POOL: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda cells: cells.sum(dim=1),
    "max": lambda cells: cells.amax(dim=1),
}


def block(a: int, b: int, *, pooling: Pooling = "sum") -> "Block":
    """Remove whole blocks of a weight: `a` output channels by `b` input channels, with all of their kernels.

    A block's score is the sum, or the largest, of the scores in it; `floor(s * n)` of a layer's n blocks go, those with
    the lowest scores, equal ones by position. Kernels for block-sparse products can skip what is gone. A criterion of
    channels gives every weight its channel's score.

    Examples:
        >>> from fprune.criteria import magnitude
        >>> params = {"w": torch.tensor([[9.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 2.0]])}
        >>> block(2, 2)(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
        >>> block(2, 1, pooling="max")(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 0, 0, 1], [1, 0, 0, 1]]
        >>> block(16, 16)
        block(16, 16)

    Args:
        a: output channels in a block; it divides those of every selected layer.
        b: input channels in a block; it divides those of every selected layer, and of each of its groups.
        pooling: `"sum"` or `"max"`.

    Returns:
        An allocation: `level(block(16, 16))`.

    Raises:
        ConfigError: a size that is not positive, another pooling; when used, a layer that the blocks do not divide.

    References:
        Gray et al, `GPU Kernels for Block-Sparse Weights <https://openai.com/index/block-sparse-gpu-kernels>`_, 2017
    """
    return Block(a, b, pooling)


@final
@attrs.frozen(repr=False)
class Block:
    """The allocation that `block` makes."""

    a: int
    b: int
    pooling: Pooling = "sum"

    def __attrs_post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b)):
            if type(value) is not int:
                raise ConfigTypeError(f"block: expected an int for {name}, got {value!r}", hint="block(16, 16)")
            if value < 1:
                raise ConfigError(f"block: expected {name} of 1 or more, got {value}", hint="block(16, 16)")
        if self.pooling not in _POOL:
            known = " or ".join(map(repr, get_args(Pooling)))
            raise ConfigError(f"block: expected pooling {known}, got {self.pooling!r}", hint="block(16, 16)")

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
        """Return the masks; see `block`."""
        scope = Scope.of(params)
        rows = local_rows(scope, config, repr(self))

        def removed() -> Iterator[tuple[Share, Tensor]]:
            for share in shares(criterion, scope, rows, "element"):
                blocks = kernels(original_layer(scope, share.row.layer), self.a, self.b)
                yield share, self._marked(scope, share, blocks)

        return masks_of(told(removed()), "element")

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget, which is of the whole model."""
        layer_rows(scope, config, repr(self))

    def _marked(self, scope: Scope, share: Share, blocks: Blocks) -> Tensor:
        """Mark the lowest blocks of the original model; what is gone or masked in part counts with what is left."""
        scores = placed(scope, share.row.layer, share.scores, "element")
        view = blocks.view(scores)
        cells = view.reshape(-1, blocks.size)
        gone = cells == -math.inf
        score = _POOL[self.pooling](torch.where(gone, torch.zeros_like(cells), cells).double())
        score = torch.where(gone.all(dim=1), -math.inf, score)
        count = max(removals(share.row.sparsity or 0.0, len(score)), int((score == -math.inf).count_nonzero()))
        chosen = lowest({share.name: score}, count)[share.name]
        marked = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        blocks.view(marked).copy_(chosen[:, None].expand(-1, blocks.size).reshape(view.shape))
        return taken(scope, share.row.layer, marked, "element")

    def __repr__(self) -> str:
        return f"block({self.a}, {self.b}{'' if self.pooling == 'sum' else f', pooling={self.pooling!r}'})"
