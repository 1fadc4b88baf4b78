"""Where the present units and elements of a layer stand in the original model."""

import math

import attrs
import torch
from torch import Tensor

from fprune.criteria.criterion import Grain
from fprune.layers import Layer
from fprune.scope import Scope

__all__ = ["original_layer", "original_shape", "placed", "taken"]


def original_shape(scope: Scope, layer: Layer, grain: Grain) -> tuple[int, ...]:
    """Return the shape of a layer's scores in the original model."""
    if grain == "channel":
        return (scope.original_units(layer),)
    return layer.shape if scope.lineage is None else scope.lineage.shapes.get(layer.weight, layer.shape)


def original_layer(scope: Scope, layer: Layer) -> Layer:
    """Return a layer as it was in the original model."""
    shape = original_shape(scope, layer, "element")
    units = scope.original_units(layer)
    return attrs.evolve(layer, shape=shape, units=units, groups=units // shape[layer.axis] if layer.axis else 1)


def placed(scope: Scope, layer: Layer, scores: Tensor, grain: Grain) -> Tensor:
    """Put scores where they stand in the original model; what compactions removed has the score `-inf`.

    Args:
        scope: knows the lineage.
        layer: the present layer.
        scores: of the present elements or units.
        grain: which of the two.

    Returns:
        Scores of the original elements or units.
    """
    if scope.lineage is None or layer.weight not in scope.lineage.kept:
        return scores
    if grain == "element":
        return scope.lineage.expand({layer.weight: scores}, fill=-math.inf)[layer.weight]
    found = scores.new_full(original_shape(scope, layer, grain), -math.inf)
    return found.index_copy(0, _units(scope, layer).to(scores.device), scores)


def taken(scope: Scope, layer: Layer, values: Tensor, grain: Grain) -> Tensor:
    """Take what is still present from values of the original elements or units; undoes `placed`."""
    if scope.lineage is None or layer.weight not in scope.lineage.kept:
        return values
    if grain == "element":
        return scope.lineage.slice({layer.weight: values})[layer.weight]
    return values[_units(scope, layer).to(values.device)]


def _units(scope: Scope, layer: Layer) -> Tensor:
    """Return the original index of every present unit."""
    original = scope.original_units(layer)
    shape = original_shape(scope, layer, "element")
    kept = (None,) * len(shape) if scope.lineage is None else scope.lineage.kept[layer.weight]
    along = kept[layer.axis]
    columns = torch.arange(shape[layer.axis], device="cpu") if along is None else along
    if original == shape[layer.axis]:
        return columns
    # A grouped transposed convolution: every group of input rows has the columns along axis 1 as its units.
    first = kept[0]
    rows = torch.arange(shape[0], device="cpu") if first is None else first
    inputs = shape[0] * shape[layer.axis] // original  # of one group, in the original model
    groups = rows[:: len(rows) // layer.groups] // inputs
    return (groups[:, None] * shape[layer.axis] + columns.to(groups.device)).flatten()
