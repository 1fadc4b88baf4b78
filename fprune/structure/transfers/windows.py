"""How constants pass through operators that gather positions: a channel of zeros stays one."""

from collections.abc import Callable
from math import prod

from torch import Tensor

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer


def _zero(zero: Tensor, dim: int, like: Tensor, shape: Shape) -> Known:
    taint = (~zero).view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))])
    return Known(taint, like.new_zeros([1] * len(shape)), shape)


def _channels(
    x: Known, dim: int, shapes: tuple[Shape, ...], at: int, change: Callable[[Tensor], Tensor]
) -> list[Known]:
    return [_zero(change(x.along(dim).zero), at, x.value, shape) for shape in shapes]


@transfer("im2col")
def im2col(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """The places of a window join the channels."""
    places = prod(bound["kernel_size"])
    return _channels(bound["self"], -3, shapes, -2, lambda zero: zero.repeat_interleave(places))[0]


@transfer("col2im")
def col2im(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """The places of a window leave the channels."""
    places = prod(bound["kernel_size"])
    return _channels(bound["self"], -2, shapes, -3, lambda zero: zero.view(-1, places).all(1))[0]


@transfer(
    *"""grid_sampler grid_sampler_2d grid_sampler_3d roi_align roi_pool max_unpool2d max_unpool3d
    max_pool2d_with_indices max_pool3d_with_indices
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa""".split()
)
def gathered(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | list[Known] | None:
    """Channels pass."""
    x = bound["self"] if "self" in bound else bound["input"]
    if len(x.shape) != len(shapes[0]):
        return None
    channel = len(x.shape) - (3 if "2d" in node.name else 4 if "3d" in node.name else len(x.shape) - 1)
    made = _channels(x, channel, shapes[:1], channel, lambda zero: zero)
    if node.single:
        return made[0]
    return [*made, *(Known.nothing(shape, x.value) for shape in shapes[1:])]
