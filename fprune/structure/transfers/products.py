"""How constants pass through products of tensors and attention."""

import torch
from torch import Tensor

from fprune.structure.equations import FACTORS, Equation, equation, factors, repeats
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer


@transfer(*FACTORS, "einsum")
def product(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """A result is constant where every term of its sum is: known factors, or one that is the constant 0."""
    given: list[Known] = factors(node.name, bound)
    eq = equation(node.name, bound, tuple(len(x.shape) for x in given))
    if eq is None:
        return None
    taint = _tainted(eq, given)
    value = torch.einsum(eq.text, [x.value for x in given])
    full = tuple(x.shape for x in given)
    value = value * repeats(eq, full, tuple(tuple(x.value.shape) for x in given))
    if bound.get("alpha") is not None:
        term = bound["self"]
        taint, value = taint | term.taint, bound["alpha"] * value + bound["beta"] * term.value
    return Known.of(taint, value, shapes[0])


def _tainted(eq: Equation, given: list[Known]) -> Tensor:
    """Where a term depends on the input: one factor does, and no other is the constant 0."""
    live = [(x.taint | (x.value != 0)).float() for x in given]
    total = [
        torch.einsum(eq.text, [x.taint.float() if i == j else live[j] for j, x in enumerate(given)])
        for i in range(len(given))
        if given[i].tainted
    ]
    return sum(total[1:], total[0]) > 0


@transfer("scaled_dot_product_attention")
def attention(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A column of the values that is the same at every key comes out as it is: its weights sum to 1.

    They do not under dropout, nor where a mask hides every key; a column of zeros comes out as zeros in any case.
    """
    v: Known = bound["value"]
    first = v.value[..., :1, :]
    taint = (v.taint | (v.value != first)).any(-2, keepdim=True)
    if bound["attn_mask"] is not None or bound["dropout_p"]:
        taint = taint | (first != 0)
    heads = shapes[0][-3] if len(shapes[0]) > 2 else 1
    if bound["enable_gqa"] and v.shape[-3] != heads:
        taint, first = (t.expand(*t.shape[:-3], v.shape[-3], 1, -1) for t in (taint, first))
        taint, first = (t.repeat_interleave(heads // v.shape[-3], -3) for t in (taint, first))
    return Known.of(taint, first, shapes[0])
