"""What an agent sees of a layer before it decides."""

from collections.abc import Sequence
from math import prod
from typing import cast

import numpy as np

from fprune.schedules.ddpg import State
from fprune.schedules.groups import Group
from fprune.structure import Structure

__all__ = ["FEATURES", "layer_features", "seen"]

FEATURES = 10
"""Index, type, outputs, inputs, stride, kernel, weights; saved so far, what is left to save from, the last action."""


def layer_features(groups: Sequence[Group], structure: Structure | None) -> list[list[float]]:
    """What does not change: one row for each group, each column brought to [0, 1] by its least and greatest value.

    Args:
        groups: the groups, in the order of the decisions; of layers that go together the first one counts.
        structure: where strides are read; 1 without it.

    Returns:
        Seven numbers for each group.
    """
    types = sorted({group.rows[0].layer.type for group in groups})
    strides = {} if structure is None else _strides(structure)
    rows: list[list[float]] = []
    for index, group in enumerate(groups):
        layer = group.rows[0].layer
        kernel = prod(layer.shape[2:])
        inputs = prod(layer.shape) // max(layer.units * kernel, 1)
        stride = strides.get(layer.weight, 1)
        rows.append([index, types.index(layer.type), layer.units, inputs, stride, kernel, group.weights])
    table = np.array(rows, np.float64)
    low, high = table.min(0), table.max(0)
    return ((table - low) / np.where(high > low, high - low, 1.0)).tolist()


def _strides(structure: Structure) -> dict[str, int]:
    graph = structure.graph
    found: dict[str, int] = {}
    for node in graph.nodes:
        stride = cast("object", node.bound.get("stride"))
        if isinstance(stride, list | tuple) and stride:
            first = cast("Sequence[int]", stride)[0]
            found.update({graph.tensors[i]: int(first) for i in node.inputs if i in graph.tensors})
    return found


def seen(features: Sequence[float], saved: float, rest: float, last: float) -> State:
    """The state before one decision: the layer's features, and three fractions in [0, 1] of what happened so far.

    Args:
        features: of the layer, seven.
        saved: saved by the decisions made, over what has to be saved.
        rest: what this layer and those after it can save at most, over what has to be saved.
        last: the last action, 0 at the beginning.
    """
    return (*features, saved, rest, last)
