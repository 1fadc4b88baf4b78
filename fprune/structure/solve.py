"""Which attributes a class needs after surgery, and which modules cannot express what they are to compute.

Every size of the program was either read from somewhere (an expression over attributes and shapes) or written in the
code. After surgery an expression must come to the new size and a number in the code must not have to change. Attributes
are free to change, shapes follow from the tensors, so the equations are solved for the attributes; a module in which an
equation is left unsatisfied cannot keep its code.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch

from fprune.structure.arguments import listed
from fprune.structure.expressions import Attribute, Expression, Size, evaluated, leaves
from fprune.structure.graph import Graph, Node, Ref, present, substitute


@attrs.frozen(eq=False)
class Equation:
    """What one size has to be, and which call needs it."""

    node: Node
    expression: Expression
    size: int


@attrs.frozen(eq=False)
class Solution:
    """New values of attributes, and the calls that no values can satisfy."""

    attributes: Mapping[Attribute, int]
    failed: tuple[Node, ...]


def solve(old: Graph, new: Graph, nodes: Iterable[Node]) -> Solution:
    """Find attribute values under which module code makes the calls of the program after surgery.

    Args:
        old: the program before surgery.
        new: the program after.
        nodes: the calls of `new` that module code is to make.
    """
    before = {node.outs: node for node in old.nodes}
    equations: list[Equation] = []
    failed: dict[tuple[int, ...], Node] = {}
    pairs = [(before[node.outs], node) for node in nodes if node.outs in before]
    for was, node in pairs:
        if node.op is not was.op:
            if not (node.name in _PIECES and _same_pieces(was, node, new)):
                failed[node.outs] = node
            continue
        for name, value in node.bound.items():
            found = _required(was, node, name, value, new)
            if found is None:
                failed[node.outs] = node
            else:
                equations += found
    values = _solved(equations, old.attributes, new)
    value = partial(present, attrs.evolve(new, attributes=values))
    for equation in equations:
        if evaluated(equation.expression, value) != equation.size:
            failed[equation.node.outs] = equation.node
    return Solution(values, tuple(failed.values()))


def _required(was: Node, node: Node, name: str, value: Any, graph: Graph) -> list[Equation] | None:
    """The equations of one argument; None when a number written in the code would have to change."""
    old, new = listed(was.bound.get(name)), listed(value)
    if name == "bias" or any(isinstance(x, (Ref, torch.Tensor)) for x in (*old, *new)):
        return []
    expressions = node.sources.get(name, ())
    if len(old) != len(new):
        return None
    expressions = expressions if len(expressions) == len(new) else (None,) * len(new)
    out: list[Equation] = []
    for a, b, expression in zip(old, new, expressions, strict=True):
        if expression is None or type(b) is not int or b == -1:
            if a != b and not (node.name == "slice" and _same_end(node, a, b, graph)):
                return None
        else:
            out.append(Equation(node, expression, b))
    return out


def _same_end(node: Node, a: Any, b: Any, graph: Graph) -> bool:
    """Whether two ends of a slice are the same place: beyond the last index they are."""
    self: Ref = node.bound["self"]
    dim: int = node.bound["dim"]
    size = graph.shapes[self.index][dim]
    return isinstance(a, int) and isinstance(b, int) and slice(a).indices(size) == slice(b).indices(size)


_PIECES = frozenset({"split_with_sizes", "squeeze"})


def _same_pieces(was: Node, node: Node, new: Graph) -> bool:
    """Whether the call as it was written takes the smaller value apart alike: equal halves stay equal halves."""
    try:
        args, kwargs = substitute((was.args, dict(was.kwargs)), lambda i: torch.empty(new.shapes[i], device="meta"))
        made = listed(was.op(*args, **kwargs))
    except (RuntimeError, IndexError):
        return False
    return [tuple(x.shape) for x in made] == [new.shapes[index] for index in node.outs]


def _solved(equations: Sequence[Equation], old: Mapping[Attribute, int], graph: Graph) -> dict[Attribute, int]:
    """Attributes that are a size by themselves first, by majority; then one unknown at a time."""
    votes: dict[Attribute, Counter[int]] = {}
    for equation in equations:
        if isinstance(equation.expression, Attribute):
            votes.setdefault(equation.expression, Counter())[equation.size] += 1
    new = {attribute: sizes.most_common(1)[0][0] for attribute, sizes in votes.items()}
    for equation in equations:
        unknown = [leaf for leaf in leaves(equation.expression) if isinstance(leaf, Attribute) and leaf not in new]
        if len(unknown) == 1:
            found = _root(equation, unknown[0], {**old, **new}, graph)
            if found is not None:
                new[unknown[0]] = found
    return {**old, **new}


def _root(equation: Equation, unknown: Attribute, values: Mapping[Attribute, int], graph: Graph) -> int | None:
    """The value of one attribute that makes an expression come to its size: its own if that does, else the largest."""

    def holds(n: int) -> bool:
        def value(leaf: Attribute | Size) -> int:
            if isinstance(leaf, Size):
                return graph.shapes[leaf.value][leaf.dim]
            return n if leaf == unknown else values[leaf]

        return evaluated(equation.expression, value) == equation.size

    return next((n for n in range(values[unknown], 0, -1) if holds(n)), None)
