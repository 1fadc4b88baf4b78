"""How constants pass through reductions and resampling."""

import torch

from fprune.structure.arguments import listed
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer


@transfer(
    *"""max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d pad
    constant_pad_nd""".split()
)
def resampled(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """A slice that is one constant stays that constant, unless the operator brings in another at the border."""
    x = bound["self"] if "self" in bound else bound["input"]
    if not node.single or any(x.varies(d) for d in range(len(x.shape)) if x.shape[d] != shapes[0][d]):
        return None
    brought: float | None = None
    if node.name.startswith("avg_pool"):
        padding = bound["padding"]
        brought = 0.0 if any([padding] if isinstance(padding, int) else padding) else None
    elif node.name == "constant_pad_nd" or (node.name == "pad" and bound["mode"] == "constant"):
        brought = float(bound["value"] or 0.0)
    changed = x.taint if brought is None else x.taint | (x.value != brought)
    return Known.of(changed, x.value, shapes[0])


def dimensions(bound: Bound, ndim: int) -> list[int]:
    """The dimensions an operator reduces: all of them when none is named."""
    dim = bound.get("dim")
    return list(range(ndim)) if dim is None or dim == [] else [d % ndim for d in listed(dim)]


@transfer("mean", "sum", "amax", "amin")
def reduced(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Tainted where anything along the reduced dimensions is."""
    x = bound["self"]
    ndim = len(x.shape)
    dims = dimensions(bound, ndim)
    x = x.over([d for d in dims if x.varies(d) or node.name == "sum"])
    taint = x.taint.amax(dims, keepdim=True) if dims else x.taint
    value = {"mean": torch.mean, "sum": torch.sum, "amax": torch.amax, "amin": torch.amin}[node.name](
        x.value, dims, keepdim=True
    )
    if len(shapes[0]) < ndim:
        kept = [d for d in range(ndim) if d not in dims]
        taint, value = (t.permute(*kept, *dims).flatten(len(kept)).squeeze(-1) for t in (taint, value))
    return Known.of(taint, value, shapes[0])


@transfer("norm", "linalg_vector_norm", "var", "std", "var_mean", "std_mean")
def measured(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | list[Known]:
    """Likewise, with the operator itself on everything it counts."""
    x = bound["self"]
    dims = dimensions(bound, len(x.shape))
    x = x.over(dims)
    taint = x.taint.amax(dims, keepdim=len(shapes[0]) == len(x.shape)) if dims else x.taint
    found = node.op(x.value, *node.args[1:], **node.kwargs)
    out = [Known.of(taint, value, shape) for value, shape in zip(listed(found), shapes, strict=True)]
    return out[0] if node.single else out
