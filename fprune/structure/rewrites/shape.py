"""Sizes of views, pieces and index maps after surgery."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fprune.errors import StructureError
from fprune.structure.graph import Node, Ref
from fprune.structure.operators import aten
from fprune.structure.rewrite import Cut, called, replaced, rewrite


def _sizes(cut: Cut, node: Node, given: list[int], first: int = 0) -> list[int]:
    new = cut.shape(node.out)[first : first + len(given)]
    return [size if size == -1 else n for size, n in zip(given, new, strict=True)]


@rewrite(
    *"""view reshape _unsafe_view expand broadcast_to zeros ones full empty new_zeros new_ones new_full
    new_empty""".split()
)
def _view(cut: Cut, node: Node, **bound: Any) -> Node:
    name = "size" if "size" in bound else "shape"
    return called(node, **{name: _sizes(cut, node, bound[name])})


@rewrite("arange", "linspace", "eye")
def _sequence(cut: Cut, node: Node, value: Tensor | None = None, **_: Any) -> Node:
    """What is left of the sequence, written out."""
    whole = node.op(*node.args, **{**node.kwargs, "device": "cpu"}) if value is None else value
    return replaced(node, written_out, value=cut.tensor(node.out, whole))


def written_out(value: Tensor) -> Tensor:
    """Stands for a call that gives the same numbers in every run."""
    return value


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
    """What is kept of the end comes to the front; along a whole dimension the shift is as written."""
    if not dims:
        raise StructureError(f"{node}: rolls a flattened tensor")
    kept = [cut.kept(self, d) for d in dims]
    ends = [s if k.all() else int(k[len(k) - s % len(k) :].sum()) for s, k in zip(shifts, kept, strict=True)]
    return called(node, shifts=ends)


@rewrite("narrow")
def _narrow(cut: Cut, node: Node, self: Ref, dim: int, start: int, length: int) -> Node:
    kept = cut.kept(self, dim)
    return called(node, start=int(kept[:start].sum()), length=int(kept[start : start + length].sum()))


@rewrite("select")
def _select(cut: Cut, node: Node, self: Ref, dim: int, index: int) -> Node:
    kept = cut.kept(self, dim)
    return called(node, index=int(kept[:index].sum()) if index >= 0 else -int(kept[index:].sum()))


@rewrite("channel_shuffle")
def _channel_shuffle(cut: Cut, node: Node, self: Ref, groups: int) -> Node:
    return called(node, groups=int(cut.kept(self, 1).reshape(groups, -1).any(1).sum()))
