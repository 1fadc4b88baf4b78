"""How constants pass through normalisation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer
from fprune.structure.wide import widened


def _passes(weight: Known | None, dim: int, ndim: int, like: Tensor) -> Tensor:
    """Where a scale lets its input through, laid along dimension `dim`."""
    if weight is None:
        return torch.ones((1,) * ndim, dtype=torch.bool, device=like.device)
    return weight.nonzero.view([-1 if d == dim else 1 for d in range(ndim)])


@transfer("batch_norm")
def batch_norm(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """With running statistics: an affine map of each channel. A scale of 0 makes the channel its shift."""
    x, parts = bound["input"], [bound[k] for k in ("running_mean", "running_var", "weight", "bias")]
    if bound["training"] or parts[0] is None or any(k is not None and k.tainted for k in parts):
        return None
    mean, var, weight, bias = [None if k is None else widened(k.value) for k in parts]
    out = F.batch_norm(x.over([1]).value, mean, var, weight, bias, False, 0.0, bound["eps"])
    return Known.of(x.taint & _passes(parts[2], 1, len(shapes[0]), x.taint), out, shapes[0])


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
