"""Operators that look up: the dimension in which they look is kept, the others pass."""

from typing import Any

import attrs

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen

_REASON = "it is indexed"


@attrs.frozen(eq=False)
class Lookup:
    """An advanced index taken apart.

    Args:
        looked: the dimensions in which entries are looked up.
        at: where the dimensions of the indices come out.
        indices: dimensions of the indices, broadcast; a mask counts as one index of as many entries as it selects.
    """

    looked: list[int]
    at: int
    indices: Dims

    def result(self, dims: Dims) -> Dims:
        """The dimensions of what an index gives."""
        passing = [rows for d, rows in enumerate(dims) if d not in self.looked]
        return [*passing[: self.at], *self.indices, *passing[self.at :]]


def lookup(flow: Flow, node: Node, indices: list[Ref | None]) -> Lookup:
    """Take an advanced index apart.

    Indices that stand side by side come out where they stand, else in front: torch's rule. A mask over k dimensions
    looks up k of them.
    """
    looked: list[int] = []
    operands: list[Dims] = []
    d = 0
    for index in indices:
        if index is not None and index.index in flow.graph.masks:
            flow.freeze(flow.dims(index), node, "it says which entries to take")
            operands.append([frozen(1)])
        elif index is not None:
            operands.append(flow.dims(index))
        width = 1 if index is None or index.index not in flow.graph.masks else len(flow.shape(index))
        looked += range(d, d + width) if index is not None else ()
        d += width
    together = looked == list(range(looked[0], looked[0] + len(looked)))
    return Lookup(looked, looked[0] if together else 0, flow.broadcast(operands, node))


@rule("index", "_unsafe_index")
def index(flow: Flow, node: Node, self: Ref, indices: list[Ref | None]) -> Dims:
    """Entries are looked up in some dimensions; the result has those of the indices in their place."""
    x, found = flow.dims(self), lookup(flow, node, indices)
    flow.freeze([x[d] for d in found.looked], node, _REASON)
    result = found.result(x)
    return [rows if len(rows) == n else frozen(n) for rows, n in zip(result, flow.shape(node.out), strict=True)]


@rule("index_put", "_index_put_impl")
def index_put(flow: Flow, node: Node, self: Ref, indices: list[Ref | None], values: Ref, **_: Any) -> Dims:
    """Entries are written in some dimensions, which are kept; the others are shared with what is written."""
    x, found = flow.dims(self), lookup(flow, node, indices)
    flow.freeze([*found.indices, *(x[d] for d in found.looked)], node, _REASON)
    y, result = flow.dims(values), found.result(x)
    inside = range(found.at, found.at + len(found.indices))
    places = [d for d in range(-len(y), 0) if len(result) + d in inside]
    flow.freeze([y[d] for d in places], node, _REASON)
    shared = [frozen(1) if d in places else y[d] for d in range(-len(y), 0)]
    flow.broadcast([result, shared], node)
    return x


@rule("index_select")
def index_select(flow: Flow, node: Node, self: Ref, dim: int, index: Ref) -> Dims:
    """Entries are looked up in one dimension."""
    x = flow.dims(self)
    if not x:
        return flow.kept(node.out)
    d = dim % len(x)
    flow.freeze([x[d]], node, _REASON)
    picked = flow.dims(index)
    return [*x[:d], picked[0] if picked else frozen(1), *x[d + 1 :]]


@rule("gather", "take_along_dim")
def gather(flow: Flow, node: Node, self: Ref, dim: int | None = None, **bound: Any) -> Dims | None:
    """Entry i of the other dimensions is entry i of the index; along `dim` the index says where to look."""
    x, where = flow.dims(self), flow.dims(bound["index" if node.name == "gather" else "indices"])
    if dim is None or len(x) != len(where) or not x:
        return None
    d = dim % len(x)
    flow.freeze([x[d]], node, _REASON)
    if node.name == "take_along_dim":  # the two are broadcast
        out = flow.broadcast([[*x[:d], frozen(1), *x[d + 1 :]], [*where[:d], frozen(1), *where[d + 1 :]]], node)
        return [*out[:d], where[d], *out[d + 1 :]]
    for e, rows in enumerate(where):
        if e != d:
            flow.labels.unify(x[e][: len(rows)], rows)
    return where


@rule("nonzero", "argwhere", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount", "nms")
def chosen(flow: Flow, node: Node, **_: Any) -> Dims | list[Dims]:
    """What comes out, and how much of it, depends on every entry."""
    flow.freeze([rows for index in node.inputs for rows in flow.values[index]], node, "it reads every entry")
    out = [flow.kept(index) for index in node.outs]
    return out[0] if node.single else out


@rule("embedding_bag")
def embedding_bag(flow: Flow, node: Node, weight: Ref, **_: Any) -> list[Dims]:
    """The vocabulary is kept, the width passes; everything else says where to look."""
    rows, width = flow.dims(weight)
    others = [rows for index in node.inputs if index != weight.index for rows in flow.values[index]]
    flow.freeze([rows, *others], node, _REASON)
    first, *rest = node.outs
    return [[frozen(flow.shape(first)[0]), width], *(flow.kept(index) for index in rest)]


@rule("diagonal")
def diagonal(flow: Flow, node: Node, self: Ref, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Dims:
    """Entry i of one dimension meets entry i of the other; off the main diagonal the two would shift."""
    x = flow.dims(self)
    a, b = dim1 % len(x), dim2 % len(x)
    rest = [rows for d, rows in enumerate(x) if d not in (a, b)]
    n = flow.shape(node.out)[-1]
    if offset:
        flow.freeze([x[a], x[b]], node, "it takes a diagonal that is not the main one")
        return [*rest, frozen(n)]
    flow.labels.unify(x[a][:n], x[b][:n])
    return [*rest, x[a][:n]]


@rule("tril", "triu")
def triangle(flow: Flow, node: Node, self: Ref, **_: Any) -> Dims:
    """Rows are compared with columns: both are kept."""
    x = flow.dims(self)
    flow.freeze(x[-2:], node, "where an entry is in this dimension matters")
    return x


@rule("diag_embed")
def diag_embed(flow: Flow, node: Node, self: Ref, dim1: int = -2, dim2: int = -1, **_: Any) -> Dims:
    """The last dimension becomes a diagonal: it is kept, the others pass."""
    x, shape = flow.dims(self), flow.shape(node.out)
    flow.freeze([x[-1]], node, "its entries become a diagonal")
    rest = iter(x[:-1])
    ends = (dim1 % len(shape), dim2 % len(shape))
    return [frozen(n) if d in ends else next(rest) for d, n in enumerate(shape)]


@rule("unfold")
def unfold(flow: Flow, node: Node, self: Ref, dimension: int, **_: Any) -> Dims:
    """Windows run over one dimension: it is kept, the others pass; the places in a window come last."""
    x, shape = flow.dims(self), flow.shape(node.out)
    d = dimension % max(len(x), 1)
    flow.freeze(x[d : d + 1], node, "windows run over this dimension")
    return [*(frozen(shape[d]) if e == d else rows for e, rows in enumerate(x)), frozen(shape[-1])]
