"""Normalisation: affine parameters follow their channels; statistics over channels are where removal can show."""

from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref


@rule("batch_norm", "instance_norm")
def batch_norm(
    flow: Flow,
    node: Node,
    input: Ref,
    weight: Ref | None = None,
    bias: Ref | None = None,
    running_mean: Ref | None = None,
    running_var: Ref | None = None,
    **rest: Any,
) -> Dims:
    """Statistics are per channel: everything of a channel lives and dies together, nothing is reduced over channels.

    Batch statistics, as of a weight that is standardised, are exact while the positions that are removed are zero.
    """
    x = flow.dims(input)
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None:
            flow.labels.unify(x[1], flow.dims(tensor)[0])
    if node.name == "batch_norm" and rest["training"]:
        for d in (0, *range(2, len(x))):
            flow.sink("norm", node, x[d], input, d)
    else:
        flow.freeze([x[0], *x[2:]], node, "its statistics run over these positions")
    return x


@rule("layer_norm", "rms_norm")
def layer_norm(
    flow: Flow,
    node: Node,
    input: Ref,
    normalized_shape: list[int],
    weight: Ref | None = None,
    bias: Ref | None = None,
    **_: Any,
) -> Dims:
    """Statistics run over the last dimensions: exact only while what is removed is zero and the width is kept."""
    x, k = flow.dims(input), len(normalized_shape)
    for tensor in (weight, bias):
        if tensor is not None:
            for rows, affine in zip(x[-k:], flow.dims(tensor), strict=True):
                flow.labels.unify(rows, affine)
    if k > 1 and node.name == "rms_norm":
        flow.freeze(x[-k:], node, "its statistics run over several dimensions")
    else:
        for d in range(-k, 0):
            flow.sink("norm", node, x[d], input, d)
    return x


@rule("group_norm")
def group_norm(
    flow: Flow, node: Node, input: Ref, num_groups: int, weight: Ref | None = None, bias: Ref | None = None, **_: Any
) -> Dims:
    """One group is a layer norm; with several, whole groups may go and channels within a group stay."""
    x, labels = flow.dims(input), flow.labels
    for tensor in (weight, bias):
        if tensor is not None:
            labels.unify(x[1], flow.dims(tensor)[0])
    flow.freeze(x[2:], node, "its statistics run over these positions")
    channels = len(x[1])
    if num_groups == 1:
        flow.sink("norm", node, x[1], input, 1)
    elif num_groups < channels:
        within = labels.split(x[1], [num_groups, channels // num_groups])[1]
        flow.freeze([within], node, "its statistics run over the channels of a group")
    return x
