"""Fixed patterns: the same number goes from every block of a weight."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import final

import attrs
import torch
from torch import Tensor

from fprune.allocate.blocks import Blocks, cells, input_runs, row_runs, unit_runs
from fprune.allocate.budget import Share, layer_rows, local_rows, masks_of, natural, removals, shares
from fprune.allocate.selection import lowest_in_rows
from fprune.allocate.ties import told
from fprune.config import Config
from fprune.criteria import Criterion, Grain
from fprune.criteria.original import original_layer, placed, taken
from fprune.errors import ConfigError, ConfigTypeError
from fprune.layers import Layer
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["Balanced", "NM", "balanced", "n_m"]


def balanced(block: int | tuple[int, ...] | None = None) -> "Balanced":
    """Remove the same number from every block of a weight, so that no part of it stays denser than another.

    `floor(s * size)` of each block's `size` weights go, those with the lowest scores, equal ones by index.

    Examples:
        >>> from fprune.criteria import magnitude
        >>> params = {"w": torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]])}
        >>> balanced()(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 1, 0, 0], [0, 0, 1, 1]]
        >>> balanced(2)(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 0, 1, 0], [0, 1, 0, 1]]
        >>> balanced((2, 1))(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 1, 1, 1], [0, 0, 0, 0]]

    Args:
        block: `None`: each row, which is all that leads to one output unit; a number: as many consecutive weights of
            a row; a tuple: a cell of a grid over the weight, over its last dimensions when there are fewer. For
            criteria of channels: `None` for all units of a layer, or as many consecutive units.

    Returns:
        An allocation: `level(balanced(16))`.

    Raises:
        ConfigError: the block is not positive; when used, a layer that the blocks do not divide.
    """
    return Balanced(block)


def n_m(n: int, m: int) -> "NM":
    """Keep the `n` best of every `m` consecutive weights along the input axis; 2 of 4 is what sparse tensor cores take.

    The numbers say what stays, as in N:M sparsity; some libraries name what goes. The pattern removes `1 - n / m`,
    and a config may not ask for more. At a sparsity s on the way there, `floor(s * m)` of each group go, so a gradual
    schedule reaches the pattern in whole steps, and the pattern is complete when s is `1 - n / m`.

    The input axis is dimension 1 of linear layers and convolutions, dimension 0 of transposed ones. Criteria of
    channels keep `n` of every `m` consecutive units.

    Examples:
        >>> from fprune.criteria import magnitude
        >>> params = {"w": torch.tensor([[4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]])}
        >>> n_m(2, 4)(magnitude(), params, Config(0.5))["w"].int().tolist()
        [[1, 0, 1, 0, 0, 0, 1, 1]]
        >>> n_m(2, 4)
        n_m(2, 4)

    Args:
        n: how many of each group stay, at least 1.
        m: how many weights make a group, more than `n`.

    Returns:
        An allocation: `level(n_m(2, 4))`.

    Raises:
        ConfigError: not `1 <= n < m`; when used, a layer whose input axis `m` does not divide, or a sparsity beyond
            the pattern.

    References:
        Mishra et al, `Accelerating Sparse Deep Neural Networks <https://arxiv.org/abs/2104.08378>`_, 2021
    """
    return NM(n, m)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_block(instance: object, attribute: object, block: int | tuple[int, ...] | None) -> None:
    sizes = block if isinstance(block, tuple) else () if block is None else (block,)
    if block == () or not all(_is_count(size) for size in sizes):
        found = f"balanced: expected a block of None, an int, or a tuple of ints, got {block!r}"
        raise ConfigTypeError(found, hint="balanced(), balanced(16), balanced((4, 4))")
    if any(size < 1 for size in sizes):
        raise ConfigError(f"balanced: expected a positive block, got {block!r}", hint="balanced(16)")


@final
@attrs.frozen(repr=False)
class Balanced:
    """The allocation that `balanced` makes."""

    block: int | tuple[int, ...] | None = attrs.field(default=None, validator=_check_block)

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
        """Return the masks; see `balanced`."""
        return _masks(criterion, params, config, repr(self), self._blocks, removals)

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget, which is of the whole model."""
        layer_rows(scope, config, repr(self))

    def _blocks(self, layer: Layer, grain: Grain) -> Blocks:
        if not isinstance(self.block, tuple):
            found = row_runs(layer, self.block) if grain == "element" else unit_runs(layer, self.block)
        elif grain == "element":
            found = cells(layer, self.block)
        elif len(self.block) == 1:
            found = unit_runs(layer, self.block[0])
        else:
            raise ConfigError(f"{self!r} is a block of weights, and the criterion scores channels", hint="balanced(4)")
        if found.size == 1:
            what = f"{self!r} makes blocks of one in layer {layer.name!r}, and a block never loses all"
            raise ConfigError(what, hint="choose a larger block, or exclude the layer")
        return found

    def __repr__(self) -> str:
        return f"balanced({'' if self.block is None else repr(self.block)})"


@final
@attrs.frozen(repr=False)
class NM:
    """The allocation that `n_m` makes."""

    n: int
    m: int

    def __attrs_post_init__(self) -> None:
        for name, value in (("n", self.n), ("m", self.m)):
            if not _is_count(value):
                raise ConfigTypeError(f"n_m: expected an int for {name}, got {value!r}", hint="n_m(2, 4)")
        if not 1 <= self.n < self.m:
            hint = "n of m stay: n_m(2, 4) removes half"
            raise ConfigError(f"n_m: expected 1 <= n < m, got n={self.n}, m={self.m}", hint=hint)

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
        """Return the masks; see `n_m`."""
        return _masks(criterion, params, config, repr(self), self._blocks, self._count)

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget, which is of the whole model."""
        layer_rows(scope, config, repr(self))

    def _blocks(self, layer: Layer, grain: Grain) -> Blocks:
        return unit_runs(layer, self.m) if grain == "channel" else input_runs(layer, self.m)

    def _count(self, sparsity: float, size: int) -> int:
        if sparsity > 1 - self.n / self.m + 1e-9:
            most = f"{1 - self.n / self.m:g}"
            found = f"{self!r} removes {most} and cannot reach sparsity {sparsity:g}"
            raise ConfigError(found, hint=f"ask for {most}, or choose another pattern")
        return removals(sparsity, size)

    def __repr__(self) -> str:
        return f"n_m({self.n}, {self.m})"


def _masks(
    criterion: Criterion,
    params: Mapping[str, Tensor],
    config: Config,
    name: str,
    blocks: Callable[[Layer, Grain], Blocks],
    count: Callable[[float, int], int],
) -> Masks:
    """Remove the same count from every block of each selected layer."""
    scope, grain = Scope.of(params), natural(criterion)
    rows = local_rows(scope, config, name)

    def removed() -> Iterator[tuple[Share, Tensor]]:
        for share in shares(criterion, scope, rows, grain):
            original = original_layer(scope, share.row.layer)
            found = blocks(original, grain)
            yield share, _marked(scope, share, grain, found, count(share.row.sparsity or 0.0, found.size))

    return masks_of(told(removed()), grain)


def _marked(scope: Scope, share: Share, grain: Grain, blocks: Blocks, k: int) -> Tensor:
    """Mark `k` of each block, in the original model's blocks: what is gone or masked there counts."""
    scores = placed(scope, share.row.layer, share.scores, grain)
    view = blocks.view(scores)
    matrix = view.reshape(-1, blocks.size)
    counts = torch.full((len(matrix),), k, device=matrix.device)
    if share.dead:  # all that is masked stays so, also where that is more than k
        counts = (matrix == -math.inf).sum(dim=1).clamp(min=k)
    marked = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    blocks.view(marked).copy_(lowest_in_rows(matrix, counts).reshape(view.shape))
    return taken(scope, share.row.layer, marked, grain)
