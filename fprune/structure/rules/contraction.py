"""Layers that multiply by a weight and sum: convolutions and linear layers."""

from typing import Any

from fprune.structure.arguments import listed
from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import frozen


@rule("conv1d", "conv2d", "conv3d")
def convolution(flow: Flow, node: Node, input: Ref, weight: Ref, bias: Ref | None, groups: int, **_: Any) -> Dims:
    """Input channels are the weight's dimension 1 (per group), output channels dimension 0; positions stay."""
    x, w, labels = flow.dims(input), flow.dims(weight), flow.labels
    channel = len(x) - len(w) + 1  # 0 for an unbatched input
    labels.freeze(*w[2:])
    pointwise = [d for d in range(channel + 1, len(x)) if _is_pointwise(flow, node, d - channel - 1)]
    over = [x[d] for d in range(channel + 1, len(x)) if d not in pointwise]
    flow.freeze(over, node, "a convolution runs over its positions")
    if groups == 1:
        labels.unify(x[channel], w[1])
    else:
        group, within = labels.split(x[channel], [groups, len(w[1])])
        group_out = labels.split(w[0], [groups, len(w[0]) // groups])[0]
        labels.unify(group, group_out)
        labels.unify(within, w[1])
    if bias is not None:
        labels.unify(w[0], flow.dims(bias)[0])
    flow.sink("conv", node, x[channel], input, channel, weight=weight.index, out=w[0], groups=groups)
    positions = enumerate(flow.shape(node.out)[channel + 1 :], channel + 1)
    return [*x[:channel], w[0], *(x[d] if d in pointwise else frozen(n) for d, n in positions)]


def _is_pointwise(flow: Flow, node: Node, d: int) -> bool:
    """Whether a convolution looks at one position at a time along its d-th spatial dimension."""
    padding, stride = node.bound["padding"], node.bound["stride"]
    unpadded = isinstance(padding, str) or listed(padding)[d % len(listed(padding))] == 0
    kernel = flow.shape(node.bound["weight"])[2 + d]
    return kernel == 1 and unpadded and listed(stride)[d % len(listed(stride))] == 1


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(flow: Flow, node: Node, input: Ref, weight: Ref, bias: Ref | None, groups: int, **_: Any) -> Dims:
    """Input channels are the weight's dimension 0; output channels are (group, dimension 1)."""
    x, w, labels = flow.dims(input), flow.dims(weight), flow.labels
    channel = len(x) - len(w) + 1
    labels.freeze(*w[2:])
    flow.freeze(x[channel + 1 :], node, "a convolution runs over its positions")
    labels.unify(x[channel], w[0])
    out = w[1]
    if groups > 1:
        group = labels.split(x[channel], [groups, len(w[0]) // groups])[0]
        out = labels.merge([group, w[1]])
    if bias is not None:
        labels.unify(out, flow.dims(bias)[0])
    flow.sink("conv_transpose", node, x[channel], input, channel, weight=weight.index, out=out, groups=groups)
    return [*x[:channel], out, *(frozen(n) for n in flow.shape(node.out)[channel + 1 :])]


@rule("linear")
def linear(flow: Flow, node: Node, input: Ref, weight: Ref, bias: Ref | None = None) -> Dims:
    """The last dimension of the input meets the weight's dimension 1; dimension 0 of the weight comes out."""
    x, w = flow.dims(input), flow.dims(weight)
    if len(w) != 2:
        return flow.kept(node.out)
    flow.labels.unify(x[-1], w[1])
    if bias is not None:
        flow.labels.unify(w[0], flow.dims(bias)[0])
    flow.sink("linear", node, x[-1], input, -1, weight=weight.index, out=w[0])
    return [*x[:-1], w[0]]
