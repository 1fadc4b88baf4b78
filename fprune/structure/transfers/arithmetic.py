"""How constants pass through products and gates."""

import torch

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer
from fprune.structure.wide import widened


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


@transfer("addcmul", "addcdiv")
def accumulated(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A sum of a value and a product, in which a constant 0 absorbs what it meets; or of a quotient."""
    x, a, b = bound["self"], bound["tensor1"], bound["tensor2"]
    zero = a.zero | b.zero if node.name == "addcmul" else a.zero & b.taint
    value = node.op(x.value, torch.where(zero, 0, a.value), torch.where(zero, 1, b.value), value=bound["value"])
    return Known.of(x.taint | ((a.taint | b.taint) & ~zero), value, shapes[0])


@transfer("glu")
def glu(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A constant 0 in the first half absorbs its gate."""
    x, dim = bound["self"], bound["dim"] % len(shapes[0])
    x = x.over([dim])
    (taint, gate), (value, by) = x.taint.chunk(2, dim), x.value.chunk(2, dim)
    zero = ~taint & (value == 0)
    return Known.of((taint | gate) & ~zero, value * by.sigmoid(), shapes[0])


@transfer("prelu")
def prelu(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Element by element in the input; the slope is a parameter."""
    x, slope = bound["self"], bound["weight"]
    taint = torch.ones_like(x.taint) if slope.tainted else x.taint
    return Known.of(taint, torch.prelu(x.over([1] if len(x.shape) > 1 else []).value, widened(slope.value)), shapes[0])
