"""How constants pass through operators: one short function per class, most of them the operator run on what is known.

"Depends on the input" is always a safe answer: it can only keep more.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fprune.structure.arguments import listed
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known, mapped, squeezed
from fprune.structure.operators import aten, functional

Bound: TypeAlias = Mapping[str, Any]
Transfer: TypeAlias = Callable[[Node, Bound, tuple[Shape, ...]], "Known | list[Known] | None"]
TRANSFER: dict[str, Transfer] = {}


def transfer(*names: str) -> Callable[[Transfer], Transfer]:
    """Register how constants pass through operators; `None` means the whole result depends on the input."""

    def register(fn: Transfer) -> Transfer:
        TRANSFER.update(dict.fromkeys(names, fn))
        return fn

    return register


def pointwise(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Known], shape: Shape) -> Known:
    """Element by element: tainted where any operand is."""
    taint = operands[0].taint
    for operand in operands[1:]:
        taint = taint | operand.taint
    value = functional(node.op)(*mapped(args, lambda k: k.value), **mapped(kwargs, lambda k: k.value))
    return Known.of(taint, value, shape)


def executed(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Known | list[Known]:
    """No operand depends on the input: the result is what the operator gives."""
    if "device" in kwargs:  # recorded on the meta device
        kwargs = {**kwargs, "device": device}
    whole: Callable[[Known], Tensor] = lambda k: k.value.expand(k.shape)  # noqa: E731
    out = functional(node.op)(*mapped(args, whole), **mapped(kwargs, whole))
    return Known.constant(out) if node.single else [Known.constant(t) for t in out]


@transfer("mul", "multiply")
def mul(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A constant 0 absorbs what it meets."""
    a, b = bound["self"], bound["other"]
    if not isinstance(b, Known):
        return Known.of(a.taint, a.value * b, shapes[0])
    return Known.of((a.taint & ~b.zero) | (b.taint & ~a.zero), a.value * b.value, shapes[0])


@transfer("div", "divide", "true_divide")
def div(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """A constant 0 over anything is 0."""
    a, b = bound["self"], bound["other"]
    if bound.get("rounding_mode") is not None:
        return None
    if not isinstance(b, Known):
        return Known.of(a.taint, a.value / b, shapes[0])
    absorbed = a.zero & b.taint
    value = torch.where(absorbed, torch.zeros_like(a.value), a.value / b.value)
    return Known.of((a.taint | b.taint) & ~absorbed, value, shapes[0])


@transfer("glu")
def glu(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A constant 0 in the first half absorbs its gate."""
    x, dim = bound["self"], bound["dim"] % len(shapes[0])
    x = x.over([dim])
    (taint, gate), (value, by) = x.taint.chunk(2, dim), x.value.chunk(2, dim)
    zero = ~taint & (value == 0)
    return Known.of((taint | gate) & ~zero, value * by.sigmoid(), shapes[0])


def is_unpadded(node: Node) -> bool:
    """Whether every output position of a convolution or linear layer sees the whole kernel."""
    if node.name == "linear":
        return True
    if node.name.startswith("conv_transpose"):
        return False  # kernels overlap inside and not at the borders
    padding = node.bound.get("padding", 0)
    if isinstance(padding, str):
        return padding == "valid"
    return not any(listed(padding))


def taps(node: Node, weight: Tensor) -> Tensor:
    """A weight as (groups, outputs of a group, inputs of a group, kernel positions), whichever way it is stored."""
    groups = node.bound.get("groups", 1)
    w = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return w.transpose(1, 2) if node.name.startswith("conv_transpose") else w


def channel_dim(node: Node, ndim: int, weight: Tensor | Shape) -> int:
    """Where the channels of a convolution's or linear layer's input and output are."""
    if node.name == "linear":
        return ndim - 1
    return ndim - (weight.ndim if isinstance(weight, Tensor) else len(weight)) + 1


@transfer("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
def weighted(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """An output channel is constant when every input channel its weights reach is."""
    x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
    if weight.tainted or (bias is not None and bias.tainted) or weight.value.ndim < 2:
        return None
    channel = channel_dim(node, len(shapes[0]), weight.value)
    w = taps(node, weight.value)
    grid = (w.shape[0], 1, w.shape[2])
    along = x.along(channel)
    fixed = ~along.taint & along.nonzero
    uniform = fixed & along.constant if is_unpadded(node) else torch.zeros_like(fixed)
    varies = (along.taint | (fixed & ~uniform)).view(grid)
    taint = ((w != 0).any(3) & varies).any(2).flatten()
    value = torch.zeros(taint.shape, dtype=w.dtype, device=w.device)
    if uniform.any():
        constants = torch.where(uniform, along.value.to(w.dtype), 0).view(grid)
        value = (w.sum(3) * constants).sum(2).flatten()
    if bias is not None:
        value = value + bias.value
    place = [-1 if d == channel else 1 for d in range(len(shapes[0]))]
    return Known.of(taint.view(place), value.view(place), shapes[0])


def _passes(weight: Known | None, dim: int, ndim: int, like: Tensor) -> Tensor:
    """Where a scale lets its input through, laid along dimension `dim`."""
    if weight is None:
        return torch.ones((1,) * ndim, dtype=torch.bool, device=like.device)
    return (weight.value != 0).view([-1 if d == dim else 1 for d in range(ndim)])


@transfer("batch_norm")
def batch_norm(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """With running statistics: an affine map of each channel. A scale of 0 makes the channel its shift."""
    x, parts = bound["input"], [bound[k] for k in ("running_mean", "running_var", "weight", "bias")]
    if bound["training"] or parts[0] is None or any(k is not None and k.tainted for k in parts):
        return None
    mean, var, weight, bias = [None if k is None else k.value for k in parts]
    out = F.batch_norm(x.over([1]).value, mean, var, weight, bias, False, 0.0, bound["eps"])
    return Known.of(x.taint & _passes(parts[2], 1, len(shapes[0]), x.taint), out, shapes[0])


@transfer("prelu")
def prelu(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Element by element in the input; the slope is a parameter."""
    x, slope = bound["self"], bound["weight"]
    taint = torch.ones_like(x.taint) if slope.tainted else x.taint
    return Known.of(taint, torch.prelu(x.over([1] if len(x.shape) > 1 else []).value, slope.value), shapes[0])


@transfer("layer_norm", "rms_norm", "group_norm", "instance_norm")
def norm(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """Whatever the statistics, a channel whose scale is 0 is its shift; the others depend on the input."""
    weight, bias, ndim = bound.get("weight"), bound.get("bias"), len(shapes[0])
    if weight is None or weight.tainted or weight.value.ndim != 1 or (bias is not None and bias.tainted):
        return None
    dim = ndim - 1 if node.name in ("layer_norm", "rms_norm") else 1
    value = torch.zeros_like(weight.value) if bias is None else bias.value
    place = [-1 if d == dim else 1 for d in range(ndim)]
    return Known.of(_passes(weight, dim, ndim, weight.value), value.view(place), shapes[0])


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


@transfer("cat", "concat", "concatenate")
def cat(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Laid end to end; along the other dimensions only what tells indices apart takes room."""
    ndim = len(shapes[0])
    dim = bound["dim"] % ndim
    parts = [x for x in bound["tensors"] if len(x.shape) == ndim]
    wide = [d for d in range(ndim) if d == dim or any(x.varies(d) for x in parts)]
    parts = [x.over(wide) for x in parts]
    dtype = parts[0].value.dtype
    for x in parts:
        dtype = torch.promote_types(dtype, x.value.dtype)
    aligned: list[tuple[Tensor, Tensor]] = [torch.broadcast_tensors(x.taint, x.value.to(dtype)) for x in parts]
    return Known.of(torch.cat([t for t, _ in aligned], dim), torch.cat([v for _, v in aligned], dim), shapes[0])


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


@transfer("mean", "sum", "amax", "amin")
def reduced(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Tainted where anything along the reduced dimensions is."""
    x, dim = bound["self"], bound.get("dim")
    ndim = len(x.shape)
    dims = (
        list(range(ndim)) if dim is None or dim == [] else [d % ndim for d in ([dim] if isinstance(dim, int) else dim)]
    )
    x = x.over([d for d in dims if x.varies(d) or node.name == "sum"])
    taint = x.taint.amax(dims, keepdim=True) if dims else x.taint
    value = {"mean": torch.mean, "sum": torch.sum, "amax": torch.amax, "amin": torch.amin}[node.name](
        x.value, dims, keepdim=True
    )
    if len(shapes[0]) < ndim:
        kept = [d for d in range(ndim) if d not in dims]
        taint, value = (t.permute(*kept, *dims).flatten(len(kept)).squeeze(-1) for t in (taint, value))
    return Known.of(taint, value, shapes[0])


@transfer("embedding")
def embedding(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A column that is the same for the whole vocabulary is a constant."""
    along = bound["weight"].along(1)
    place = [-1 if d == len(shapes[0]) - 1 else 1 for d in range(len(shapes[0]))]
    return Known.of((along.taint | ~along.constant).view(place), along.value.view(place), shapes[0])
