"""The program after surgery: the same calls, with the sizes that changed written anew.

Invariant: every value of the new program equals the masked program's value restricted to its kept indices. Only
operators that carry sizes in their arguments need a rule; all others follow their inputs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.errors import StructureError
from fprune.structure.decide import Decision
from fprune.structure.flow import Sink
from fprune.structure.ghost import ghost_group_norm, ghost_layer_norm, ghost_mean, ghost_rms_norm
from fprune.structure.graph import Node, Ref, Shape
from fprune.structure.labels import Bools, Ints
from fprune.structure.operators import aten
from fprune.structure.trace import Family, Slice, Structure


@attrs.frozen(eq=False)
class Cut:
    """Which indices of every value stay."""

    structure: Structure
    decision: Decision

    def kept(self, ref: Ref | int, dim: int) -> Bools:
        """Which indices of a dimension of a value stay."""
        index = ref if isinstance(ref, int) else ref.index
        rows = self.structure.rows[index]
        return self.decision.kept(rows[dim % len(rows)])

    def shape(self, ref: Ref | int) -> Shape:
        """The new shape of a value."""
        rows = self.structure.rows[ref if isinstance(ref, int) else ref.index]
        return tuple(int(self.decision.kept(r).sum()) for r in rows)

    def old(self, ref: Ref | int) -> Shape:
        """The old shape of a value."""
        return self.structure.graph.shapes[ref if isinstance(ref, int) else ref.index]

    def changed(self, ref: Ref | int) -> bool:
        """Whether a value gets smaller."""
        return self.shape(ref) != self.old(ref)

    def tensor(self, index: int, value: Tensor) -> Tensor:
        """A tensor restricted to what stays."""
        for dim, rows in enumerate(self.structure.rows[index]):
            kept = self.decision.kept(rows)
            if not kept.all():
                value = value.index_select(dim, torch.from_numpy(np.flatnonzero(kept)).to(value.device))
        return value


Rewrite: TypeAlias = Callable[..., Node]
REWRITES: dict[str, Rewrite] = {}


def rewrite(*names: str) -> Callable[[Rewrite], Rewrite]:
    """Register how an operator's arguments change: `fn(cut, node, **bound) -> Node`."""

    def register(fn: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(names, fn))
        return fn

    return register


def called(node: Node, **changes: Any) -> Node:
    """The call with some arguments changed, by schema name."""
    names = list(node.bound)
    args = tuple(changes.get(name, value) for name, value in zip(names, node.args, strict=False))
    late = {name: value for name, value in changes.items() if name not in names[: len(args)]}
    return attrs.evolve(node, args=args, kwargs={**node.kwargs, **late}, bound={**node.bound, **changes})


def replaced(node: Node, op: Callable[..., Any], name: str | None = None, **bound: Any) -> Node:
    """Another call in its place, all arguments positional."""
    return attrs.evolve(node, op=op, name=name or node.name, args=tuple(bound.values()), kwargs={}, bound=bound)


def program(cut: Cut) -> tuple[Node, ...]:
    """Every call of the program, rewritten where a size changes."""
    out: list[Node] = []
    for node in cut.structure.graph.nodes:
        touched = any(cut.changed(index) for index in (*node.inputs, *node.outs))
        fn = REWRITES.get(node.name) if touched else None
        out.append(fn(cut, node, **node.bound) if fn is not None else node)
    return tuple(out)


def _sizes(cut: Cut, node: Node, given: list[int], first: int = 0) -> list[int]:
    new = cut.shape(node.out)[first : first + len(given)]
    return [size if size == -1 else n for size, n in zip(given, new, strict=True)]


@rewrite("view", "reshape", "_unsafe_view", "expand", "broadcast_to")
def _view(cut: Cut, node: Node, **bound: Any) -> Node:
    name = "size" if "size" in bound else "shape"
    return called(node, **{name: _sizes(cut, node, bound[name])})


@rewrite("unflatten")
def _unflatten(cut: Cut, node: Node, self: Ref, dim: int, sizes: list[int], **_: Any) -> Node:
    return called(node, sizes=_sizes(cut, node, sizes, dim % len(cut.old(self))))


@rewrite("view_as", "reshape_as", "expand_as")
def _view_as(cut: Cut, node: Node, self: Ref, other: Ref) -> Node:
    if cut.shape(other) != cut.shape(node.out):
        raise StructureError(f"{node}: the tensor whose shape it takes is cut differently")
    return node


@rewrite("split", "split_with_sizes", "chunk", "tensor_split")
def _split(cut: Cut, node: Node, self: Ref, dim: int = 0, **_: Any) -> Node:
    kept = cut.kept(self, dim)
    if kept.all():
        return node
    sizes = [cut.shape(index)[dim] for index in node.outs]
    return replaced(node, aten("split_with_sizes"), "split_with_sizes", self=self, split_sizes=sizes, dim=dim)


@rewrite("slice")
def _slice(
    cut: Cut,
    node: Node,
    self: Ref,
    dim: int,
    start: int | None,
    end: int | None,
    step: int,
    index: Tensor | None = None,
) -> Node:
    kept = cut.kept(self, dim)
    if kept.all():
        return node
    low, high, _ = slice(start, end, step).indices(len(kept))
    if step == 1 and index is None:
        return called(node, start=int(kept[:low].sum()), end=int(kept[:high].sum()))
    rank = np.cumsum(kept) - 1
    chosen = range(low, high, step) if index is None else cast("list[int]", index.tolist())
    index = torch.tensor([int(rank[i]) for i in chosen if kept[i]])
    return replaced(node, gathered, self=self, dim=dim, start=None, end=None, step=step, index=index)


def gathered(x: Tensor, dim: int, start: None, end: None, step: int, index: Tensor) -> Tensor:
    """A strided slice after surgery: the chosen indices one by one."""
    del start, end, step
    return x.index_select(dim, index.to(x.device))


@rewrite("squeeze")
def _squeeze(cut: Cut, node: Node, self: Ref, dim: Any = None) -> Node:
    """Only what had size 1 before goes: a dimension of which one index is left is still there."""
    old = cut.old(self)
    given = range(len(old)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted({d % len(old) for d in given if old[d] == 1})
    return replaced(node, aten("squeeze", "dims"), self=self, dim=dims)


@rewrite("roll")
def _roll(cut: Cut, node: Node, self: Ref, shifts: list[int], dims: list[int]) -> Node:
    """What is kept of the end comes to the front."""
    if not dims:
        raise StructureError(f"{node}: rolls a flattened tensor")
    kept = [cut.kept(self, d) for d in dims]
    return called(node, shifts=[int(k[len(k) - s % len(k) :].sum()) for s, k in zip(shifts, kept, strict=True)])


@rewrite("narrow")
def _narrow(cut: Cut, node: Node, self: Ref, dim: int, start: int, length: int) -> Node:
    kept = cut.kept(self, dim)
    return called(node, start=int(kept[:start].sum()), length=int(kept[start : start + length].sum()))


@rewrite("select")
def _select(cut: Cut, node: Node, self: Ref, dim: int, index: int) -> Node:
    kept = cut.kept(self, dim)
    return called(node, index=int(kept[: index % len(kept)].sum()))


@rewrite("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _grouped(cut: Cut, node: Node, input: Ref, weight: Ref, groups: int, **_: Any) -> Node:
    if groups == 1:
        return node
    if node.name.startswith("conv_transpose"):
        return called(node, groups=cut.shape(node.out)[-len(cut.old(weight)) + 1] // cut.shape(weight)[1])
    return called(node, groups=cut.shape(input)[-len(cut.old(weight)) + 1] // cut.shape(weight)[1])


@rewrite("channel_shuffle")
def _channel_shuffle(cut: Cut, node: Node, self: Ref, groups: int) -> Node:
    return called(node, groups=int(cut.kept(self, 1).reshape(groups, -1).any(1).sum()))


@rewrite("group_norm")
def _group_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, bias: Ref | None, **bound: Any) -> Node:
    old, new = cut.old(node.out)[1], cut.shape(node.out)[1]
    if "width" not in bound and bound["num_groups"] > 1:
        return called(node, num_groups=bound["num_groups"] * new // old)
    width = bound.get("width", old)
    return replaced(node, ghost_group_norm, input=input, weight=weight, bias=bias, width=width, eps=bound["eps"])


@rewrite("layer_norm")
def _layer_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, bias: Ref | None, **bound: Any) -> Node:
    if cut.shape(input)[-1] == cut.old(input)[-1]:
        return node
    width = bound.get("width", cut.old(input)[-1])
    return replaced(node, ghost_layer_norm, input=input, weight=weight, bias=bias, width=width, eps=bound["eps"])


@rewrite("rms_norm")
def _rms_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, **bound: Any) -> Node:
    if cut.shape(input)[-1] == cut.old(input)[-1]:
        return node
    width = bound.get("width", cut.old(input)[-1])
    return replaced(node, ghost_rms_norm, input=input, weight=weight, width=width, eps=bound["eps"])


@rewrite("mean")
def _mean(cut: Cut, node: Node, self: Ref, dim: Any = None, keepdim: bool = False, **bound: Any) -> Node:
    old = cut.old(self)
    dims = list(range(len(old))) if dim is None else [d % len(old) for d in ([dim] if isinstance(dim, int) else dim)]
    if all(cut.kept(self, d).all() for d in dims):
        return node
    stored = bound.get("stored", 1.0) * math.prod(cut.shape(self)[d] / old[d] for d in dims)
    return replaced(node, ghost_mean, self=self, dim=dims, keepdim=keepdim, stored=stored)


def compacted(cut: Cut, biases: Mapping[int, tuple[str, int | None]]) -> Structure:
    """The structure of the compact model, carried over: no second capture.

    Args:
        cut: what stays.
        biases: sink number -> name of the bias that takes its fold, and the value that held it, if there was one.
    """
    structure, graph = cut.structure, cut.structure.graph
    nodes = {node.outs: node for node in program(cut)}
    rows = {index: tuple(r[cut.decision.kept(r)] for r in dims) for index, dims in structure.rows.items()}
    shapes = [tuple(map(len, rows[i])) if i in rows else shape for i, shape in enumerate(graph.shapes)]
    tensors = dict(graph.tensors)
    for number, (name, holder) in biases.items():
        sink = structure.sinks[number]
        if holder is not None and tensors.get(holder) == name:
            continue
        index = len(shapes)
        out = sink.out if sink.out is not None else sink.rows
        rows[index] = (out[cut.decision.kept(out)],)
        shapes.append((len(rows[index][0]),))
        tensors[index] = name
        nodes[sink.node.outs] = called(nodes[sink.node.outs], bias=Ref(index))
    used = {index for node in nodes.values() for index in node.inputs}
    new = attrs.evolve(
        graph,
        nodes=tuple(nodes.values()),
        shapes=tuple(shapes),
        tensors={index: name for index, name in tensors.items() if index in used or index in graph.outputs},
        constants={index: cut.tensor(index, value) for index, value in graph.constants.items()},
    )
    return attrs.evolve(
        structure,
        graph=new,
        rows=rows,
        sinks=tuple(_sink(sink, nodes[sink.node.outs], cut.decision) for sink in structure.sinks),
        families=tuple(f for family in structure.families if len(f := _family(cut, family))),
    )


def _sink(sink: Sink, node: Node, decision: Decision) -> Sink:
    rows = sink.rows[decision.kept(sink.rows)]
    out = None if sink.out is None else sink.out[decision.kept(sink.out)]
    return attrs.evolve(sink, node=node, rows=rows, out=out, groups=node.bound.get("groups", sink.groups))


def _family(cut: Cut, family: Family) -> Family:
    stay = ~cut.decision.removed[family.labels]
    by_name = {name: index for index, name in cut.structure.graph.tensors.items()}
    slices: list[Slice] = []
    for part in family.slices:
        kept = cut.kept(by_name[part.tensor], part.dim)
        index = part.index[stay]
        index = index[kept[index]].reshape(int(stay.sum()), -1) if stay.any() else index
        rank: Ints = np.cumsum(kept) - 1
        slices.append(Slice(part.tensor, part.dim, rank[index]))
    return attrs.evolve(family, labels=family.labels[stay], slices=tuple(slices))
