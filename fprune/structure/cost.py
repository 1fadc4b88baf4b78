"""What a model costs as its units go: parameters and FLOPs of the compact model, from shapes alone."""

from collections.abc import Collection, Mapping
from math import prod

import attrs
import numpy as np
from torch import Tensor

from fprune.errors import StructureError, close_matches
from fprune.structure.flops import flops
from fprune.structure.graph import Graph, Node, Shape
from fprune.structure.labels import Bools, Ints, touched
from fprune.structure.trace import Structure

__all__ = ["Costs", "Totals"]


@attrs.frozen
class Totals:
    """Parameters and FLOPs of a whole model.

    Examples:
        >>> Totals(params=58, flops=96)
        Totals(params=58, flops=96)

    Args:
        params: elements of all parameters; shared ones count once.
        flops: floating-point operations of one forward pass on the example inputs, the whole batch.
    """

    params: int
    flops: int


@attrs.frozen(eq=False)
class Costs:
    """The cost of a model as a function of the units that are gone: what `fprune.count` says of the compact model.

    Nothing is compacted, run or read: each dimension of each value counts the labels that stay, and products of these
    counts are parameters and FLOPs. It takes a fraction of a millisecond for a ResNet-18, so a search may ask for
    thousands of candidates.

    Examples:
        >>> import torch
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> costs = Costs.of(trace(net, torch.ones(1, 4)))
        >>> costs.whole, costs.keeping({"0.weight": 3})
        (Totals(params=58, flops=96), Totals(params=23, flops=36))

    Args:
        structure: the couplings, of a dense or of a compact model.
        dims: label rows of dimensions that can shrink, each array once.
        tensors: for each parameter its dimensions: a size, or `-1 - n` for `dims[n]`.
        values: the same for each value that the cost of a call depends on.
        nodes: the calls whose cost depends on what is gone.
        fixed: what everything else costs.
    """

    structure: Structure
    dims: tuple[Ints, ...]
    tensors: tuple[Shape, ...]
    values: Mapping[int, Shape]
    nodes: tuple[Node, ...]
    fixed: Totals

    @staticmethod
    def of(
        structure: Structure, params: Mapping[str, Tensor] | None = None, only: Collection[str] | None = None
    ) -> "Costs":
        """Prepare the costs of a model, or of some of its parameters and the calls that read one of these.

        Args:
            structure: its couplings.
            params: all its parameters; those that the forward pass does not use count too.
            only: names of parameters; nothing else counts.

        Returns:
            The costs.
        """
        graph, store = structure.graph, _Store()
        shape = graph.shapes.__getitem__
        names = set(graph.tensors.values()) - set(structure.buffers) if only is None else set(only)
        tensors = {name: index for index, name in graph.tensors.items() if name in names}
        shapes = {name: store.dims(structure.rows[index]) for name, index in tensors.items()}
        costly = [(node, flops(node, shape)) for node in (graph.nodes if only is None else _readers(graph, names))]
        costly = [(node, work) for node, work in costly if work]
        needed = {index for node, _ in costly for index in (*node.inputs, *node.outs)}
        values = {
            index: store.dims(structure.rows[index]) if index in structure.rows else shape(index) for index in needed
        }
        alive = [any(n < 0 for index in (*node.inputs, *node.outs) for n in values[index]) for node, _ in costly]
        unused = sum(value.numel() for name, value in (params or {}).items() if name not in tensors)
        fixed = Totals(
            unused + sum(prod(s) for s in shapes.values() if min(s, default=0) >= 0),
            sum(work for (_, work), changes in zip(costly, alive, strict=True) if not changes),
        )
        return Costs(
            structure,
            tuple(store.rows),
            tuple(s for s in shapes.values() if min(s, default=0) < 0),
            values,
            tuple(node for (node, _), changes in zip(costly, alive, strict=True) if changes),
            fixed,
        )

    @property
    def whole(self) -> Totals:
        """The cost with every unit there."""
        return self(np.zeros(self.structure.labels, np.bool_))

    def __call__(self, removed: Bools) -> Totals:
        """The cost of the compact model.

        Args:
            removed: `(labels,)`, true for the label of each unit that is gone. Every dimension keeps an index.

        Returns:
            Parameters and FLOPs, as `fprune.count` counts them with masks of these units.
        """
        left = [len(rows) - int(np.count_nonzero(touched(removed, rows))) for rows in self.dims]

        def sized(dims: Shape) -> Shape:
            return tuple(left[-1 - n] if n < 0 else n for n in dims)

        shapes = {index: sized(dims) for index, dims in self.values.items()}
        params = sum(prod(sized(dims)) for dims in self.tensors)
        work = sum(flops(node, shapes.__getitem__) for node in self.nodes)
        return Totals(self.fixed.params + params, self.fixed.flops + work)

    def keeping(self, kept: Mapping[str, int]) -> Totals:
        """The cost with so many units of some families; of the others all stay.

        Units of one family are worth the same, so it does not matter which of them go.

        Args:
            kept: family name -> how many of its units stay, at least 1.

        Returns:
            Parameters and FLOPs.

        Raises:
            StructureError: there is no family of that name, or it does not have as many units.
        """
        return self(self.without(kept))

    def without(self, kept: Mapping[str, int]) -> Bools:
        """The units that are gone when of each family so many stay, the first ones; an argument for a call.

        Args:
            kept: as in `keeping`.

        Returns:
            Bool, `(labels,)`.

        Raises:
            StructureError: as in `keeping`.
        """
        removed = np.zeros(self.structure.labels, np.bool_)
        families = {family.name: family for family in self.structure.families}
        for name, count in kept.items():
            if name not in families:
                hint = close_matches(name, families) or f"families: {', '.join(families)}"
                raise StructureError(f"there is no family {name!r}", hint=hint)
            if not 1 <= count <= len(families[name]):
                found = f"family {name!r} cannot keep {count} units"
                raise StructureError(found, hint=f"it has {len(families[name])}, and keeps 1 at least")
            removed[families[name].labels[count:]] = True
        return removed


def _readers(graph: Graph, names: Collection[str]) -> list[Node]:
    """The calls that read one of some tensors; a view of a tensor is the tensor."""
    seen, found = {index for index, name in graph.tensors.items() if name in names}, list[Node]()
    for node in graph.nodes:
        if not seen.isdisjoint(node.inputs):
            found.append(node)
            seen.update(node.outs if len(node.inputs) == 1 else ())
    return found


class _Store:
    """Label rows by value: dimensions that live and die together are counted once."""

    def __init__(self) -> None:
        """An empty store."""
        self.rows: list[Ints] = []
        self._number: dict[tuple[int, bytes], int] = {}

    def dims(self, rows: tuple[Ints, ...]) -> Shape:
        """The dimensions of a value: sizes, or `-1 - n` for those that can shrink."""
        return tuple(-1 - self._put(row) if row.any() else len(row) for row in rows)

    def _put(self, row: Ints) -> int:
        key = row.shape[1], row.tobytes()
        if key not in self._number:
            self._number[key] = len(self.rows)
            self.rows.append(row)
        return self._number[key]
