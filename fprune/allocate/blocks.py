"""How a weight falls into blocks of equal size: runs of a row, cells of a grid, runs along the input axis."""

from collections.abc import Callable
from math import prod

import attrs
from torch import Tensor

from fprune.errors import ConfigError
from fprune.layers import Layer

__all__ = ["Blocks", "cells", "input_runs", "kernels", "row_runs", "unit_runs"]


@attrs.frozen(eq=False)
class Blocks:
    """Blocks of a tensor.

    Args:
        size: scores in one block.
        view: gives a view of a contiguous tensor whose row-major order lists block after block.
    """

    size: int
    view: Callable[[Tensor], Tensor]


def unit_runs(layer: Layer, size: int | None) -> Blocks:
    """Return runs of consecutive units, or all units as one block."""
    return Blocks(_fitting(layer, "units", layer.units, size), lambda units: units)


def row_runs(layer: Layer, size: int | None) -> Blocks:
    """Return runs of consecutive weights in each unit's row, or whole rows; a vector is one row."""
    if len(layer.shape) == 1:
        return Blocks(_fitting(layer, "weights", layer.shape[0], size), lambda weight: weight)
    length = _fitting(layer, "weights in a row", prod(layer.shape) // layer.units, size)
    if layer.axis == 0:
        return Blocks(length, lambda weight: weight)
    # A transposed convolution, (groups * in, out, ...): the row of a unit is what one group sends to one output.
    return Blocks(length, lambda weight: weight.view(layer.groups, -1, *layer.shape[1:]).transpose(1, 2))


def cells(layer: Layer, block: tuple[int, ...]) -> Blocks:
    """Return the cells of a grid over the weight; a block of fewer dimensions lies in the last ones."""
    rank = len(layer.shape)
    if len(block) > rank:
        found = f"a block of {len(block)} dimensions does not fit {layer.name!r} of shape {layer.shape}"
        raise ConfigError(found, hint=f"give at most {rank}, or exclude the layer")
    sizes = (1,) * (rank - len(block)) + block
    for dim, (length, size) in enumerate(zip(layer.shape, sizes, strict=True)):
        _fitting(layer, f"weights along dimension {dim}", length, size)

    def view(weight: Tensor) -> Tensor:
        split = (part for length, size in zip(layer.shape, sizes, strict=True) for part in (length // size, size))
        return weight.view(*split).permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))

    return Blocks(prod(sizes), view)


def kernels(layer: Layer, outputs: int, inputs: int) -> Blocks:
    """Return the cells of a grid of output by input channels; each has the whole kernels, and none is in two groups."""
    if len(layer.shape) < 2:
        found = f"{layer.name!r} has the shape {layer.shape}, and a block is of outputs by inputs"
        raise ConfigError(found, hint="exclude the layer")
    axis = layer.axis
    _fitting(layer, "input channels of a group", layer.shape[1 - axis] // (layer.groups if axis else 1), inputs)
    _fitting(layer, "output channels of a group", layer.shape[axis], outputs)
    sizes = (inputs, outputs) if axis else (outputs, inputs)
    return cells(layer, (*sizes, *layer.shape[2:]))


def input_runs(layer: Layer, size: int) -> Blocks:
    """Return runs of consecutive weights along the input axis, none across two groups."""
    axis = 0 if layer.axis == 1 or len(layer.shape) == 1 else 1
    groups = layer.groups if axis == 0 else 1
    length = _fitting(layer, "weights along the input axis", layer.shape[axis] // groups, size)
    return Blocks(length, lambda weight: weight.movedim(axis, -1))


def _fitting(layer: Layer, what: str, length: int, size: int | None) -> int:
    """Return the size of a block, the whole length by default."""
    found = length if size is None else size
    if found and length % found == 0:
        return found
    hint = "choose a size that divides it, or exclude the layer"
    raise ConfigError(f"layer {layer.name!r} has {length} {what}, not a multiple of {found}", hint=hint)
