"""How constants pass through convolutions and linear layers."""

import attrs
import torch
from torch import Tensor

from fprune.bools import any_along, both, is_all, is_any
from fprune.structure.arguments import listed
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.products import product
from fprune.structure.transfers.registry import Bound, transfer
from fprune.structure.wide import widened


def is_unpadded(node: Node) -> bool:
    """Whether every output position of a convolution or linear layer sees the whole kernel."""
    if node.name in ("linear", "addmm"):
        return True
    if not node.name.startswith("conv") or node.name.startswith("conv_transpose"):
        return False  # kernels overlap inside and not at the borders
    padding = node.bound.get("padding", 0)
    if isinstance(padding, str):
        return padding == "valid"
    return not any(listed(padding))


def bias_name(node: Node) -> str:
    """The argument of a convolution or linear layer that is added to its outputs."""
    return "self" if node.name == "addmm" else "bias"


def taps(node: Node, weight: Tensor) -> Tensor:
    """A weight as (groups, outputs of a group, inputs of a group, kernel positions), whichever way it is stored."""
    if node.name == "addmm":
        return weight.t()[None, :, :, None]
    groups = node.bound.get("groups", 1)
    w = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return w.transpose(1, 2) if node.name.startswith("conv_transpose") else w


def channel_dim(node: Node, ndim: int, weight: Tensor | Shape) -> int:
    """Where the channels of a convolution's or linear layer's input and output are."""
    if node.name == "linear":
        return ndim - 1
    return ndim - (weight.ndim if isinstance(weight, Tensor) else len(weight)) + 1


@transfer(*"""conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d deform_conv2d linear""".split())
def weighted(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """An output channel is constant when every input channel its weights reach is."""
    x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
    if node.name == "linear" and weight.tainted and bias is None:
        turned = Known(weight.taint.t(), weight.value.t(), weight.shape[::-1])
        return product(attrs.evolve(node, name="matmul"), {"self": x, "other": turned}, shapes)
    if weight.tainted or (bias is not None and bias.tainted) or weight.value.ndim < 2:
        return None
    channel = channel_dim(node, len(shapes[0]), weight.value)
    reach = any_along(taps(node, weight.nonzero), 3)
    grid = (reach.shape[0], 1, reach.shape[2])
    along = x.along(channel)
    fixed = ~along.taint & along.nonzero
    uniform = fixed & along.constant if is_unpadded(node) else torch.zeros_like(fixed)
    varies = (along.taint | (fixed & ~uniform)).view(grid)
    taint = any_along(reach if is_all(varies) else both(reach, varies), 2).flatten()
    value = x.value.new_zeros(taint.shape)
    if is_any(uniform):
        constants = torch.where(uniform, along.value, 0).view(grid)
        value = (widened(taps(node, weight.value)).sum(3) * constants).sum(2).flatten()
    if bias is not None:
        value = value + bias.value
    place = [-1 if d == channel else 1 for d in range(len(shapes[0]))]
    return Known.of(taint.view(place), value.view(place), shapes[0])
