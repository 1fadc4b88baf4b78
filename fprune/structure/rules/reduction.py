"""Operators that reduce, compare or resample along dimensions."""

from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen


def reduced(dim: Any, x: Dims) -> list[int]:
    """The dimensions an operator reduces: all of them when none is named."""
    if dim is None or dim == []:
        return list(range(len(x)))
    return [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)] if x else []


def without(flow: Flow, x: Dims, dims: list[int], index: int) -> Dims:
    """The labels of a reduced output, whether or not the reduced dimensions were kept with size 1."""
    if len(flow.shape(index)) == len(x):
        return [frozen(flow.shape(index)[d]) if d in dims else rows for d, rows in enumerate(x)]
    return [rows for d, rows in enumerate(x) if d not in dims]


@rule("mean", "sum")
def mean(flow: Flow, node: Node, self: Ref, dim: Any = None, **_: Any) -> Dims:
    """Exact while what is removed is zero; a mean keeps its original divisor."""
    return summed(flow, node, self, dim, node.name)[0]


def summed(flow: Flow, node: Node, self: Ref, dim: Any, kind: str) -> list[Dims]:
    """A reduction to which zeros add nothing, or nothing but their number."""
    x = flow.dims(self)
    dims = reduced(dim, x)
    for d in dims:
        flow.sink(kind, node, x[d], self, d)
    return [without(flow, x, dims, index) for index in node.outs]


@rule("var", "std", "var_mean", "std_mean")
def variance(flow: Flow, node: Node, self: Ref, dim: Any = None, **_: Any) -> Dims | list[Dims]:
    """Exact while what is removed is zero and still counted."""
    out = summed(flow, node, self, dim, "norm")
    return out[0] if node.single else out


@rule("norm", "linalg_vector_norm")
def vector_norm(flow: Flow, node: Node, self: Ref, dim: Any = None, **bound: Any) -> Dims | list[Dims] | None:
    """Zeros add nothing to a norm of positive order."""
    order = bound.get("p", bound.get("ord"))
    if order is not None and not order > 0:
        return along(flow, node, dim)
    return summed(flow, node, self, dim, "sum")[0]


@rule(
    *"""softmax log_softmax cumsum cumprod sort argsort topk argmax argmin amax amin max min any all median logsumexp
    prod""".split()
)
def along(flow: Flow, node: Node, dim: Any = None, **_: Any) -> Dims | list[Dims] | None:
    """The result depends on every index along the dimension: it is kept; the others pass."""
    first, *others = node.inputs
    if others:  # max(a, b) is element-wise
        return flow.broadcast([flow.values[index] for index in node.inputs], node) if node.single else None
    x = flow.dims(Ref(first))
    dims = reduced(dim, x)
    flow.freeze([x[d] for d in dims], node, "every index along this dimension matters")
    out = [without(flow, x, dims, index) for index in node.outs]
    return out[0] if node.single else out


@rule(
    *"""max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices
    max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d""".split()
)
def resample(flow: Flow, node: Node, **_: Any) -> Dims | list[Dims]:
    """Spatial dimensions are kept, channels pass."""
    x = flow.dims(Ref(node.inputs[0]))
    spatial = 3 if "3d" in node.name else 2 if "2d" in node.name else 1
    flow.freeze(x[-spatial:], node, "it resamples these positions")
    out = [[*x[:-spatial], *(frozen(n) for n in flow.shape(index)[-spatial:])] for index in node.outs]
    return out[0] if node.single else out


@rule("pad", "constant_pad_nd")
def pad(flow: Flow, node: Node, self: Ref, pad: list[int], **_: Any) -> Dims:
    """Padded dimensions are kept, the others pass."""
    x = flow.dims(self)
    for i in range(len(pad) // 2):
        d = len(x) - 1 - i
        if pad[2 * i] or pad[2 * i + 1]:
            flow.freeze([x[d]], node, "it pads this dimension")
            x[d] = frozen(flow.shape(node.out)[d])
    return x


@rule("prelu")
def prelu(flow: Flow, node: Node, self: Ref, weight: Ref) -> Dims:
    """Element by element, with one slope, or one for each channel."""
    x, slope = flow.dims(self), flow.dims(weight)
    if len(x) > 1 and slope and len(slope[0]) == len(x[1]):
        flow.labels.unify(x[1], slope[0])
    return x


@rule("embedding")
def embedding(flow: Flow, node: Node, weight: Ref, indices: Ref, **_: Any) -> Dims:
    """The vocabulary is kept; the width passes."""
    rows = flow.dims(weight)
    flow.freeze([rows[0]], node, "it is indexed by the inputs")
    return [*flow.dims(indices), rows[1]]


@rule("glu")
def glu(flow: Flow, node: Node, self: Ref, dim: int = -1) -> Dims:
    """The two halves are multiplied: index i of one half goes with index i of the other."""
    x = flow.dims(self)
    d = dim % len(x)
    half = len(x[d]) // 2
    flow.labels.unify(x[d][:half], x[d][half:])
    return [*x[:d], x[d][:half], *x[d + 1 :]]
