"""What a family is to the model: attention heads, the width of every head, or channels. Read off the labels."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import attrs
import numpy as np

from fprune.structure.equations import FACTORS, Equation, equation, factors
from fprune.structure.graph import Graph, Node, Ref
from fprune.structure.labels import Bools, Ints

Role: TypeAlias = Literal["head", "head_dim", "channel"]
_ATTENTION = Equation(("hqe", "hke", "hkv"), "hqv")  # softmax(q @ k.T) @ v, `h` for every leading dimension


def roles(graph: Graph, rows: Mapping[int, tuple[Ints, ...]], labels: Sequence[Ints], count: int) -> list[Role]:
    """The role of each family.

    A product of activations that runs in batches is an attention, whatever class it sits in. Along the batch dimensions
    lie heads (whole heads, or key-value groups). Along what it sums, and along the last dimension of each factor, lies
    the width of a head. A label along another dimension is one of several queries of a group when it shares the
    rows of a weight with a width, and a width when it shares them with a head. All other families are channels.

    Args:
        graph: the recorded program.
        rows: label rows of each value.
        labels: the labels of each family.
        count: how many labels there are.

    Returns:
        One role for each family.
    """
    marks = _Marks(*(np.zeros(count, np.bool_) for _ in range(3)))
    bare = _bare(graph)
    for node in graph.nodes:
        values, eq = _product(graph, node)
        if eq is not None and not bare.intersection(values):
            marks.note([rows[value] for value in values], eq)
    beside = [np.zeros(count, np.bool_) for _ in range(2)]
    for tensor in graph.tensors:
        for r in rows[tensor]:
            for near, marked in zip(beside, (marks.width, marks.head), strict=True):
                near[r[marked[r].any(1)]] = True
    head, width = marks.head, marks.width
    grouped = marks.other & ~head & ~width
    kinds: tuple[tuple[Bools, Role], ...] = (
        (head, "head"),
        (width, "head_dim"),
        (grouped & beside[0], "head"),
        (grouped & beside[1], "head_dim"),
    )
    return [_role(kinds, family) for family in labels]


def _role(kinds: Sequence[tuple[Bools, Role]], family: Ints) -> Role:
    for marked, role in kinds:
        if marked[family].any():
            return role
    return "channel"


@attrs.frozen(eq=False)
class _Marks:
    """Labels seen along the batch dimensions of products, along their widths, and along other dimensions."""

    head: Bools
    width: Bools
    other: Bools

    def note(self, operands: list[tuple[Ints, ...]], eq: Equation) -> None:
        """Note the labels of one product, if it runs in batches."""
        batch = {x for x in eq.out if sum(x in letters for letters in eq.factors) > 1}
        for dims, letters in zip(operands, eq.factors, strict=True) if batch else ():
            for d, (r, letter) in enumerate(zip(dims, letters, strict=True)):
                wide = letter not in eq.out or d == len(letters) - 1
                (self.head if letter in batch else self.width if wide else self.other)[r[r > 0]] = True


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
