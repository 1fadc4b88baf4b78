"""What one unit of each family is worth: the parameters and the FLOPs that go with it. Computed when it is shown."""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod

import attrs
import numpy as np

from fprune.structure.flops import flops
from fprune.structure.graph import Graph, Node, Shape
from fprune.structure.labels import Ints

Rows = Mapping[int, tuple[Ints, ...]]


@attrs.frozen
class Worth:
    """What removing one unit saves.

    Examples:
        >>> Worth(params=14, flops=24)
        Worth(params=14, flops=24)

    Args:
        params: elements of parameters.
        flops: floating-point operations of a forward pass on the example inputs.
    """

    params: int
    flops: int


def worths(graph: Graph, rows: Rows, families: Sequence[Ints], labels: int, buffers: Collection[str]) -> list[Worth]:
    """The worth of the first unit of each family while every other unit is there.

    `worth = cost(all) - cost(all but the unit)`, for each tensor and each call, from shapes. A call is as costly as
    `flops` says; what several families share (a weight's rows and columns) is therefore in the worth of each.

    Args:
        graph: the recorded program.
        rows: label rows of each value.
        families: the labels of each family's units.
        labels: how many labels there are.
        buffers: tensors that are no parameters.

    Returns:
        One worth for each family.
    """
    lost = _lost(rows, [int(family[0]) for family in families], labels)
    params, work = [0] * len(families), [0] * len(families)

    def smaller(index: int, family: int) -> Shape:
        gone = lost.get(index, {}).get(family)
        shape = graph.shapes[index]
        return shape if gone is None else tuple(n - k for n, k in zip(shape, gone, strict=True))

    for index, name in graph.tensors.items():
        for family in () if name in buffers else lost.get(index, ()):
            params[family] += prod(graph.shapes[index]) - prod(smaller(index, family))
    for node in graph.nodes:
        touching = {family for index in (*node.inputs, *node.outs) for family in lost.get(index, ())}
        whole = flops(node, graph.shapes.__getitem__) if touching else 0
        for family in touching if whole else ():
            work[family] += whole - _left(node, whole, lambda index, family=family: smaller(index, family))
    return [Worth(p, f) for p, f in zip(params, work, strict=True)]


def _lost(rows: Rows, units: Sequence[int], labels: int) -> dict[int, dict[int, tuple[int, ...]]]:
    """Value -> family -> how many indices of each dimension go with the family's first unit."""
    family_of = np.full(labels, len(units), np.int64)
    family_of[units] = np.arange(len(units))
    seen: dict[int, Ints] = {}  # dimensions share their rows: each array is counted once
    out: dict[int, dict[int, tuple[int, ...]]] = {}
    for index, dims in rows.items():
        for row in dims:
            if id(row) not in seen:
                seen[id(row)] = np.bincount(family_of[row].ravel(), minlength=len(units) + 1)[:-1]
        gone = np.array([seen[id(row)] for row in dims], np.int64).reshape(len(dims), len(units))
        touched = np.flatnonzero(gone.any(0)).tolist()
        if touched:
            out[index] = {family: tuple(gone[:, family].tolist()) for family in touched}
    return out


def _left(node: Node, whole: int, shape: Callable[[int], Shape]) -> int:
    """The cost of a call on smaller operands; unchanged for one that cannot be told from its shapes."""
    try:
        return flops(node, shape)
    except (RuntimeError, ValueError):
        return whole


def whole_outputs(graph: Graph, rows: Rows) -> list[str]:
    """Weights of which no output can go: they make what the model returns, or a barrier reads them."""
    dims = {name: rows[index] for index, name in graph.tensors.items()}
    return [name for name, row in dims.items() if len(row) > 1 and len(row[0]) > 1 and not row[0].any()]


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
