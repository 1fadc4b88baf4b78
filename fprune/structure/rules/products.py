"""Products of tensors: matrix products, einsum, attention."""

from typing import Any

from fprune.structure.equations import FACTORS, Equation, equation, factors
from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import Ints


@rule(*FACTORS, "einsum")
def product(flow: Flow, node: Node, **bound: Any) -> Dims | None:
    """Dimensions with the same letter live and die together; a letter that does not come out is summed."""
    refs: list[Ref] = factors(node.name, bound)
    eq = equation(node.name, bound, tuple(len(flow.shape(ref)) for ref in refs))
    if eq is None:
        return None
    rows = coupled(flow, node, eq, refs)
    for letter in eq.summed:
        (first, dim), *rest = meeting(flow, eq, refs, letter)
        others = tuple((ref.index, place) for ref, place in rest)
        weighted = {"weight": refs[1].index, "out": rows[eq.out[-1]]} if _is_linear(flow, node) else {}
        flow.sink("product", node, rows[letter], first, dim, others=others, **weighted)
    out = [rows[letter] for letter in eq.out]
    return flow.broadcast([out, flow.dims(bound["self"])], node) if bound.get("alpha") is not None else out


def _is_linear(flow: Flow, node: Node) -> bool:
    """Whether a call is a linear layer written as `bias + x @ weight`."""
    if node.name != "addmm" or node.bound["alpha"] != 1 or node.bound["beta"] != 1:
        return False
    return flow.shape(node.bound["self"]) == flow.shape(node.out)[1:]


def meeting(flow: Flow, eq: Equation, refs: list[Ref], letter: str) -> list[tuple[Ref, int]]:
    """The factors that have a letter at its full size, and the dimension it stands for."""
    size = eq.sizes(tuple(flow.shape(ref) for ref in refs))[letter]
    at = [(ref, letters.index(letter)) for ref, letters in zip(refs, eq.factors, strict=True) if letter in letters]
    return [(ref, dim) for ref, dim in at if flow.shape(ref)[dim] == size]


def coupled(flow: Flow, node: Node, eq: Equation, refs: list[Ref]) -> dict[str, Ints]:
    """The labels of each letter, coupled over the factors that have it."""
    out: dict[str, Ints] = {}
    for letter in dict.fromkeys("".join(eq.factors)):
        first, *rest = [flow.dims(ref)[dim] for ref, dim in meeting(flow, eq, refs, letter)]
        for rows in rest:
            flow.couple(first, rows, node)
        out[letter] = first
    return out


@rule("scaled_dot_product_attention")
def attention(
    flow: Flow,
    node: Node,
    query: Ref,
    key: Ref,
    value: Ref,
    attn_mask: Ref | None = None,
    enable_gqa: bool = False,
    **_: Any,
) -> Dims | None:
    """Queries meet keys along their width, positions are kept, heads go together; the width of values comes out."""
    q, k, v, labels = flow.dims(query), flow.dims(key), flow.dims(value), flow.labels
    if not len(q) == len(k) == len(v) or (len(k) > 2 and len(k[-3]) != len(v[-3])):
        return None
    labels.unify(q[-1], k[-1])
    flow.sink("product", node, q[-1], query, len(q) - 1, others=((key.index, len(k) - 1),))
    flow.freeze([q[-2], k[-2], v[-2]], node, "attention runs over these positions")
    lead = flow.broadcast([k[:-2], v[:-2]], node) if len(k) > 2 else []
    if enable_gqa and len(q[-3]) != len(lead[-1]):
        shared, _repeat = labels.split(q[-3], [len(lead[-1]), len(q[-3]) // len(lead[-1])])
        flow.couple(shared, lead[-1], node)
        lead = [*lead[:-1], q[-3]]
    lead = flow.broadcast([q[:-2], lead], node) if lead else []
    if attn_mask is not None:
        mask = flow.dims(attn_mask)
        flow.freeze(mask[-2:], node, "attention runs over these positions")
        if len(mask) > 2:
            lead = flow.broadcast([lead, mask[:-2]], node)
    return [*lead, q[-2], v[-1]]
