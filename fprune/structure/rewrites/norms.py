"""Statistics over a dimension of which slices were removed: the original width is kept."""

import math
from typing import Any

from fprune.structure.ghost import (
    ghost_batch_norm,
    ghost_block_norm,
    ghost_group_norm,
    ghost_layer_norm,
    ghost_mean,
    ghost_rms_norm,
    ghost_std,
    ghost_std_mean,
    ghost_var,
    ghost_var_mean,
)
from fprune.structure.graph import Node, Ref
from fprune.structure.rewrite import Cut, called, replaced, rewrite


@rewrite("group_norm")
def _group_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, bias: Ref | None, **bound: Any) -> Node:
    old, new = cut.old(node.out)[1], cut.shape(node.out)[1]
    if "width" not in bound and bound["num_groups"] > 1:
        return called(node, num_groups=bound["num_groups"] * new // old)
    width = bound.get("width", old)
    return replaced(node, ghost_group_norm, input=input, weight=weight, bias=bias, width=width, eps=bound["eps"])


@rewrite("layer_norm")
def _layer_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, bias: Ref | None, **bound: Any) -> Node:
    if (dims := bound.get("dims", len(bound.get("normalized_shape", (0,))))) > 1:
        _, stored = _stored(cut, input, list(range(-dims, 0)), bound.get("stored", 1.0))
        if stored == bound.get("stored", 1.0):
            return node
        eps = bound["eps"]
        return replaced(
            node, ghost_block_norm, input=input, weight=weight, bias=bias, dims=dims, stored=stored, eps=eps
        )
    if cut.shape(input)[-1] == cut.old(input)[-1]:
        return node
    width = bound.get("width", cut.old(input)[-1])
    return replaced(node, ghost_layer_norm, input=input, weight=weight, bias=bias, width=width, eps=bound["eps"])


@rewrite("batch_norm")
def _batch_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, bias: Ref | None, **bound: Any) -> Node:
    if not bound.get("training", True):
        return node
    _, stored = _stored(cut, input, [0, *range(2, len(cut.old(input)))], bound.get("stored", 1.0))
    if stored == bound.get("stored", 1.0):
        return node
    return replaced(node, ghost_batch_norm, input=input, weight=weight, bias=bias, stored=stored, eps=bound["eps"])


@rewrite("rms_norm")
def _rms_norm(cut: Cut, node: Node, input: Ref, weight: Ref | None, **bound: Any) -> Node:
    if cut.shape(input)[-1] == cut.old(input)[-1]:
        return node
    width = bound.get("width", cut.old(input)[-1])
    return replaced(node, ghost_rms_norm, input=input, weight=weight, width=width, eps=bound["eps"])


def _stored(cut: Cut, self: Ref, dim: Any, before: float) -> tuple[list[int], float]:
    """The dimensions that are reduced, and the fraction of their entries that is still stored.

    It is one quotient of two counts, so that it does not depend on how many surgeries there were on the way.
    """
    old = cut.old(self)
    given: list[int] = [dim] if isinstance(dim, int) else dim or list(range(len(old)))
    dims = [d % len(old) for d in given]
    original = round(math.prod(old[d] for d in dims) / before)
    return dims, math.prod(cut.shape(self)[d] for d in dims) / original


@rewrite("mean")
def _mean(cut: Cut, node: Node, self: Ref, dim: Any = None, keepdim: bool = False, **bound: Any) -> Node:
    dims, stored = _stored(cut, self, dim, bound.get("stored", 1.0))
    if stored == bound.get("stored", 1.0):
        return node
    return replaced(node, ghost_mean, self=self, dim=dims, keepdim=keepdim, stored=stored)


_VARIANCES = {"var": ghost_var, "std": ghost_std, "var_mean": ghost_var_mean, "std_mean": ghost_std_mean}


@rewrite(*_VARIANCES)
def _variance(cut: Cut, node: Node, self: Ref, dim: Any = None, keepdim: bool = False, **bound: Any) -> Node:
    dims, stored = _stored(cut, self, dim, bound.get("stored", 1.0))
    if stored == bound.get("stored", 1.0):
        return node
    given = bound.get("correction")
    correction = float(bound.get("unbiased", True)) if given is None else given
    ghost = _VARIANCES[node.name]
    return replaced(node, ghost, self=self, dim=dims, correction=correction, keepdim=keepdim, stored=stored)
