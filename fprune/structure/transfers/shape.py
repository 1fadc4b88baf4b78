"""How constants pass through operators that only move elements."""

import torch
from torch import Tensor

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known, squeezed
from fprune.structure.operators import aten
from fprune.structure.transfers.registry import Bound, transfer


@transfer("cat", "concat", "concatenate")
def cat(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Laid end to end."""
    ndim = len(shapes[0])
    return _joined([x for x in bound["tensors"] if len(x.shape) == ndim], bound["dim"] % ndim, shapes[0])


@transfer("stack")
def stack(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Laid side by side along a dimension of their own."""
    dim = bound["dim"] % len(shapes[0])
    shape = (*shapes[0][:dim], 1, *shapes[0][dim + 1 :])
    return _joined(
        [Known(x.taint.unsqueeze(dim), x.value.unsqueeze(dim), shape) for x in bound["tensors"]], dim, shapes[0]
    )


def _joined(parts: list[Known], dim: int, shape: Shape) -> Known:
    """Joined along one dimension; along the others only what tells indices apart takes room."""
    wide = [d for d in range(len(shape)) if d == dim or any(x.varies(d) for x in parts)]
    parts = [x.over(wide) for x in parts]
    dtype = parts[0].value.dtype
    for x in parts:
        dtype = torch.promote_types(dtype, x.value.dtype)
    aligned: list[tuple[Tensor, Tensor]] = [torch.broadcast_tensors(x.taint, x.value.to(dtype)) for x in parts]
    return Known.of(torch.cat([t for t, _ in aligned], dim), torch.cat([v for _, v in aligned], dim), shape)


@transfer(
    *"""view reshape _unsafe_view flatten unflatten squeeze unsqueeze permute transpose t movedim moveaxis swapaxes
    swapdims numpy_T mT split split_with_sizes chunk tensor_split unbind select slice narrow expand broadcast_to roll
    flip pixel_shuffle pixel_unshuffle channel_shuffle repeat tile repeat_interleave""".split()
)
def moved(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | list[Known] | None:
    """Elements only change place: the operator runs on the taint itself, repeated dimensions costing nothing."""
    x = next(iter(bound.values()))
    rest = list(node.args[1:])
    if (
        not isinstance(x, Known)
        or "dtype" in bound
        or any(isinstance(value, Known) for value in list(bound.values())[1:])
    ):
        return None
    op = aten("reshape") if node.name in ("view", "_unsafe_view") else node.op  # strides differ from the recorded ones
    whole = [op(t.expand(x.shape), *rest, **node.kwargs) for t in (x.taint, x.value)]
    taints, values = ([t] if node.single else t for t in whole)
    out = [Known(squeezed(t), squeezed(v), shape) for t, v, shape in zip(taints, values, shapes, strict=True)]
    return out[0] if node.single else out


@transfer("view_as", "reshape_as", "expand_as")
def shaped(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Only the shape of the second value counts, and that is known."""
    x, op = bound["self"], aten("expand" if node.name == "expand_as" else "reshape")
    taint, value = (squeezed(op(t.expand(x.shape), shapes[0])) for t in (x.taint, x.value))
    return Known(taint, value, shapes[0])
