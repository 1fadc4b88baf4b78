"""Operators that gather positions: windows, regions, grids. Channels pass, positions are kept."""

from math import prod
from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen

_POSITIONS = "it gathers these positions"


@rule("im2col")
def im2col(flow: Flow, node: Node, self: Ref, kernel_size: list[int], **_: Any) -> Dims:
    """The places of a window join the channels."""
    x, out = flow.dims(self), flow.shape(node.out)
    flow.freeze(x[-2:], node, _POSITIONS)
    return [*x[:-3], flow.labels.merge([x[-3], frozen(prod(kernel_size))]), frozen(out[-1])]


@rule("col2im")
def col2im(flow: Flow, node: Node, self: Ref, kernel_size: list[int], **_: Any) -> Dims:
    """The places of a window leave the channels."""
    x, out = flow.dims(self), flow.shape(node.out)
    places = prod(kernel_size)
    channels, within = flow.labels.split(x[-2], [len(x[-2]) // places, places])
    flow.freeze([x[-1], within], node, _POSITIONS)
    return [*x[:-2], channels, frozen(out[-2]), frozen(out[-1])]


@rule("max_unpool2d", "max_unpool3d")
def unpool(flow: Flow, node: Node, self: Ref, indices: Ref, **_: Any) -> Dims:
    """Values and where they came from go together."""
    spatial = 2 if node.name == "max_unpool2d" else 3
    x, at = flow.dims(self), flow.dims(indices)
    flow.freeze([*x[-spatial:], *at[-spatial:]], node, _POSITIONS)
    lead = flow.broadcast([x[:-spatial], at[:-spatial]], node)
    return [*lead, *(frozen(n) for n in flow.shape(node.out)[-spatial:])]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(flow: Flow, node: Node, input: Ref, grid: Ref, **_: Any) -> Dims:
    """Each sample has a grid, which all its channels share."""
    x, where = flow.dims(input), flow.dims(grid)
    flow.freeze([*x[2:], *where[1:]], node, _POSITIONS)
    return [*flow.broadcast([x[:1], where[:1]], node), x[1], *(frozen(n) for n in flow.shape(node.out)[2:])]


@rule("roi_align", "roi_pool")
def regions(flow: Flow, node: Node, input: Ref, rois: Ref, **_: Any) -> Dims | list[Dims]:
    """Regions are cut out of all channels alike."""
    x = flow.dims(input)
    flow.freeze([x[0], *x[2:], *flow.dims(rois)], node, _POSITIONS)
    shapes = [flow.shape(index) for index in node.outs]
    out = [[frozen(shape[0]), x[1], *(frozen(n) for n in shape[2:])] for shape in shapes]
    return out[0] if node.single else out


@rule("deform_conv2d")
def deform_conv2d(
    flow: Flow, node: Node, input: Ref, weight: Ref, offset: Ref, mask: Ref, bias: Ref, **bound: Any
) -> Dims | None:
    """A convolution whose positions are computed; only with one group do channels pass."""
    if bound["groups"] != 1 or bound["offset_groups"] != 1:
        return None
    x, w = flow.dims(input), flow.dims(weight)
    flow.freeze([*x[2:], *flow.dims(offset), *flow.dims(mask)], node, _POSITIONS)
    flow.labels.freeze(*w[2:])
    flow.labels.unify(x[1], w[1])
    flow.labels.unify(w[0], flow.dims(bias)[0])
    flow.sink("conv", node, x[1], input, 1, weight=weight.index, out=w[0])
    return [x[0], w[0], *(frozen(n) for n in flow.shape(node.out)[2:])]
