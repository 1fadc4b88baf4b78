"""Operators that compare vectors: zeros in both add nothing."""

from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen


@rule("cosine_similarity")
def cosine_similarity(flow: Flow, node: Node, x1: Ref, x2: Ref, dim: int = 1, **_: Any) -> Dims:
    """The sums of products and of squares run over one dimension."""
    out = flow.broadcast([flow.dims(x1), flow.dims(x2)], node)
    d = dim % len(out) - len(out)
    for operand in (x1, x2):
        dims = flow.dims(operand)
        if len(dims) < -d or len(dims[d]) != len(out[d]):  # one number stands for many
            flow.freeze([out[d]], node, "it repeats an operand along this dimension")
        else:
            flow.sink("sum", node, dims[d], operand, d)
    return [rows for e, rows in enumerate(out) if e != len(out) + d]


@rule("cdist")
def cdist(flow: Flow, node: Node, x1: Ref, x2: Ref, **_: Any) -> Dims:
    """The sum of differences runs over the last dimension; each row of one meets each row of the other."""
    a, b = flow.dims(x1), flow.dims(x2)
    flow.labels.unify(a[-1], b[-1])
    flow.sink("sum", node, a[-1], x1, -1)
    flow.sink("sum", node, b[-1], x2, -1)
    batch = flow.broadcast([a[:-2], b[:-2]], node) if len(a) > 2 or len(b) > 2 else []
    return [*batch, a[-2], b[-2]]


@rule("_weight_norm")
def weight_norm(flow: Flow, node: Node, v: Ref, g: Ref, dim: int = 0) -> Dims:
    """Directions are divided by their norms, to which zeros add nothing; a direction of zeros has none."""
    x = flow.broadcast([flow.dims(v), flow.dims(g)], node)
    for d in range(len(x)):
        if d != dim:
            flow.sink("sum", node, x[d], v, d)
    if dim >= 0:
        flow.freeze([x[dim]], node, "a masked direction would have no norm to divide by")
    return [frozen(len(rows)) if d == dim else rows for d, rows in enumerate(x)]
