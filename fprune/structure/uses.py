"""Where a forward pass uses the weights of layers, and which dimension of what comes out holds their units."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor

from fprune.structure.graph import Graph, Node, Ref

Place: TypeAlias = Literal["spatial", "last", "second", "rows"]

USES: Mapping[str, tuple[str, Place]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), ("weight", "spatial")),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ("weight", "spatial")),
    **dict.fromkeys(("linear", "bilinear", "layer_norm", "rms_norm"), ("weight", "last")),
    **dict.fromkeys(("prelu", "batch_norm", "instance_norm", "group_norm"), ("weight", "second")),
    **dict.fromkeys(("addmm", "mm"), ("mat2", "last")),
    "matmul": ("other", "last"),
    "embedding": ("weight", "rows"),
}
"""Operator -> the argument that is a layer's weight, and where the units are in its output: before as many dimensions
as the kernel has, last, second, or one row of the weight for each position."""


def unit_dim(place: Place, weight_ndim: int, ndim: int) -> int:
    """Return the dimension of an output along which the units lie.

    Examples:
        >>> unit_dim("spatial", 4, 4), unit_dim("spatial", 4, 3), unit_dim("last", 2, 3), unit_dim("second", 1, 4)
        (1, 0, 2, 1)

    Args:
        place: where the operator puts them; `"rows"` has no such dimension.
        weight_ndim: dimensions of the weight.
        ndim: dimensions of the output.
    """
    if place == "spatial":
        return ndim - (weight_ndim - 1)
    return ndim - 1 if place == "last" else min(1, ndim - 1)


class Weights:
    """Which values are a layer's weight: the parameter, and what is computed from it and other parameters alone.

    A weight that was cast, transposed or standardised is still the weight. Values are numbers of a program (`Ref`), or
    tensors, which have to stay alive while they are followed.

    Args:
        names: a layer's weight for some values.
        others: the other parameters, buffers and constants.
    """

    def __init__(self, names: Iterable[tuple[Any, str]], others: Iterable[Any]) -> None:
        """Nothing computed yet."""
        self._names = {_key(value): name for value, name in names}
        self._known = {*self._names, *map(_key, others)}

    def used(self, op: str, bound: Mapping[str, Any]) -> str | None:
        """Return the name of the weight that a call applies to what it is given; None when there is none."""
        return self._names.get(_key(bound.get(USES[op][0]))) if op in USES else None

    def touched(self, reads: Iterable[Any]) -> list[str]:
        """Return the names of the weights among the values that a call reads."""
        return [self._names[key] for value in reads if (key := _key(value)) in self._names]

    def computed(self, reads: Iterable[Any], made: Iterable[Any]) -> bool:
        """Follow a call: what is made of parameters alone is known too. Returns whether it is."""
        keys = [_key(value) for value in reads]
        if not keys or any(key not in self._known for key in keys):
            return False
        names = {self._names[key] for key in keys if key in self._names}
        for key in map(_key, made):
            self._known.add(key)
            if len(names) == 1:
                self._names[key] = next(iter(names))
        return True


def _key(value: object) -> int:
    if isinstance(value, Ref):
        return value.index
    return id(value) if isinstance(value, Tensor) else -1


def uses(graph: Graph) -> dict[str, list[Node]]:
    """Return the calls of a program that use each weight, in order.

    Examples:
        >>> import torch
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> found = uses(trace(net, torch.ones(1, 2)).graph)
        >>> [(name, [node.name for node in nodes]) for name, nodes in found.items()]
        [('0.weight', ['linear'])]
    """
    weights = Weights([(Ref(index), name) for index, name in graph.tensors.items()], map(Ref, graph.constants))
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        name = weights.used(node.name, node.bound)
        if name is not None:
            found.setdefault(name, []).append(node)
        weights.computed(map(Ref, node.inputs), map(Ref, node.outs))
    return found
