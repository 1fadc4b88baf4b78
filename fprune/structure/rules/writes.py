"""Operators that write into part of a value: what is written and where it is written to live and die together."""

from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen


@rule("overwritten")
def overwritten(flow: Flow, node: Node, value: Ref, before: Ref, written: Ref, **_: Any) -> Dims:
    """A view says which entries it is of, so `value` and the view `before` agree; the view is still that afterwards."""
    if flow.shape(before) == flow.shape(written):
        for old, new in zip(flow.dims(before), flow.dims(written), strict=True):
            flow.labels.unify(old, new)
        return flow.dims(value)
    flow.freeze([*flow.dims(value), *flow.dims(written)], node, "a view of these values is changed in place")
    return flow.kept(node.out)


@rule("slice_scatter")
def slice_scatter(
    flow: Flow,
    node: Node,
    self: Ref,
    src: Ref,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Dims:
    """The range is that of the source, the other dimensions are shared."""
    x, y = flow.dims(self), flow.dims(src)
    d = dim % len(x)
    inside = list(x)
    inside[d] = x[d][slice(start, end, step)]
    flow.broadcast([inside, y], node)
    return x


@rule("select_scatter")
def select_scatter(flow: Flow, node: Node, self: Ref, src: Ref, dim: int, index: int) -> Dims:
    """The chosen index is kept, the other dimensions are shared."""
    x = flow.dims(self)
    d = dim % len(x)
    flow.freeze([x[d][[index]]], node, "it writes one index of a dimension")
    flow.broadcast([[*x[:d], *x[d + 1 :]], flow.dims(src)], node)
    return x


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(flow: Flow, node: Node, self: Ref, dim: int, index: Ref, **bound: Any) -> Dims:
    """Entry i of the other dimensions is entry i of the index and of the source; `dim` is written where it says."""
    x, d = flow.dims(self), dim % max(len(flow.shape(self)), 1)
    for other in (index, bound.get("src"), bound.get("value")):
        if not isinstance(other, Ref) or not flow.shape(other):
            continue
        for e, rows in enumerate(flow.dims(other)):
            if e == d:
                flow.freeze([rows], node, "it says where to write")
            else:
                n = len(flow.dims(index)[e])  # the rest of the longer ones is not touched
                flow.labels.unify(x[e][:n], rows[:n])
    flow.freeze([x[d]], node, "it is written at given indices")
    return x


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def index_add(flow: Flow, node: Node, self: Ref, dim: int, index: Ref, **bound: Any) -> Dims:
    """`dim` is written at given indices, the other dimensions are shared with the source."""
    x = flow.dims(self)
    d = dim % len(x)
    flow.freeze([x[d], *flow.dims(index)], node, "it is written at given indices")
    source = bound.get("source")
    if isinstance(source, Ref):
        inside = list(x)
        inside[d] = frozen(flow.shape(source)[d])
        flow.broadcast([inside, flow.dims(source)], node)
    return x
