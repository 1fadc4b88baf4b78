"""What a family is to the model: attention heads, the width of every head, or channels. Read off the labels."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from fprune.structure.equations import FACTORS, Equation, equation, factors
from fprune.structure.graph import Graph, Node, Ref
from fprune.structure.labels import Bools, Ints

Role: TypeAlias = Literal["head", "head_dim", "channel"]
_ATTENTION = Equation(("hqe", "hke", "hkv"), "hqv")  # softmax(q @ k.T) @ v, `h` for every leading dimension


def roles(graph: Graph, rows: Mapping[int, tuple[Ints, ...]], labels: Sequence[Ints], count: int) -> list[Role]:
    """The role of each family.

    A product of activations that runs in batches is an attention, whatever class it sits in: along the batch dimensions
    lie heads, along the others positions and the width of a head. A family is `"head"` when its labels lie along a
    batch dimension of such a product (whole heads, key-value groups, the queries of every group), else `"head_dim"`
    when they lie along another dimension, else `"channel"`.

    Args:
        graph: the recorded program.
        rows: label rows of each value.
        labels: the labels of each family.
        count: how many labels there are.

    Returns:
        One role for each family.
    """
    heads, widths = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    bare = _bare(graph)
    for node in graph.nodes:
        values, eq = _product(graph, node)
        if eq is not None and not bare.intersection(values):
            _mark([rows[value] for value in values], eq, heads, widths)
    return [_role(heads, widths, family) for family in labels]


def _role(heads: Bools, widths: Bools, family: Ints) -> Role:
    return "head" if heads[family].any() else "head_dim" if widths[family].any() else "channel"


def _mark(operands: list[tuple[Ints, ...]], eq: Equation, heads: Bools, widths: Bools) -> None:
    """Note the labels along the batch dimensions of a product, and those along the others."""
    batch = {x for x in eq.out if sum(x in letters for letters in eq.factors) > 1}
    if not batch:
        return
    for dims, letters in zip(operands, eq.factors, strict=True):
        for r, letter in zip(dims, letters, strict=True):
            (heads if letter in batch else widths)[r[r > 0]] = True


def _product(graph: Graph, node: Node) -> tuple[list[int], Equation | None]:
    """The values that a call multiplies, and how; no equation when it multiplies none."""
    if node.name == "scaled_dot_product_attention":
        values: list[int] = [node.bound[name].index for name in ("query", "key", "value")]
        ndim = len(graph.shapes[values[0]])
        lead = "".join(chr(ord("A") + d) for d in range(ndim - 2))
        letters = [text.replace("h", lead) for text in _ATTENTION.factors]
        return values, Equation(tuple(letters), _ATTENTION.out.replace("h", lead))
    if node.name != "einsum" and node.name not in FACTORS:
        return [], None
    refs: list[Ref] = factors(node.name, node.bound)
    return [ref.index for ref in refs], equation(node.name, node.bound, tuple(len(graph.shapes[r.index]) for r in refs))


def _bare(graph: Graph) -> set[int]:
    """Parameters and constants, also rearranged ones: a product with one is a layer, not an attention."""
    bare = {*graph.tensors, *graph.constants}
    for node in graph.nodes:
        if len(node.inputs) == 1 and node.inputs[0] in bare:
            bare.update(node.outs)
    return bare
