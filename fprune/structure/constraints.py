"""What a model's code demands of sizes: `width // num_heads` is the width of a head, equal halves stay equal.

A class reads most sizes from shapes and attributes. Where two sizes that surgery changes meet in one expression, the
class can hold the result only when the counts of several families obey an equation. A planner that knows the equations
can balance its choice; without, the module is rebuilt as a graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import attrs
import numpy as np

from fprune.structure.arguments import listed
from fprune.structure.expressions import Attribute, Combined, Expression, Size, evaluated, leaves
from fprune.structure.graph import Node
from fprune.structure.labels import Ints
from fprune.structure.trace import Structure

Place: TypeAlias = tuple[int, int, int, int]
"""A run of indices: value, dimension, start, end."""
Leaf: TypeAlias = Attribute | Size


@attrs.frozen
class Count:
    """How many indices of a run are kept, as a polynomial in how many units of each part are kept.

    Examples:
        >>> two_heads_of_four = Count(((8, (0, 1)),), {0: 2, 1: 4})
        >>> two_heads_of_four({0: 1, 1: 3})
        3

    Args:
        terms: indices that belong to one unit of each of some parts, and these parts.
        sizes: part -> how many units it has.
    """

    terms: tuple[tuple[int, tuple[int, ...]], ...]
    sizes: Mapping[int, int] = attrs.field(hash=False)

    def __call__(self, kept: Mapping[int, int]) -> int:
        """The count when `kept[part]` units of each part are kept."""
        return sum(n * prod(kept[p] for p in parts) // prod(self.sizes[p] for p in parts) for n, parts in self.terms)

    @property
    def parts(self) -> frozenset[int]:
        """The parts that it depends on."""
        return frozenset(p for _, parts in self.terms for p in parts)


@attrs.frozen(eq=False)
class Constraint:
    """An equation between sizes that the code of a module spells out.

    Args:
        node: the call that needs it.
        size: the size that an argument must have.
        expression: what the code computes for it.
        counts: what each leaf of the expression comes to.
    """

    node: Node
    size: Count
    expression: Expression
    counts: Mapping[Leaf, Count]

    @property
    def parts(self) -> frozenset[int]:
        """The parts that it ties together."""
        return self.size.parts.union(*(count.parts for count in self.counts.values()))

    def gap(self, kept: Mapping[int, int]) -> int:
        """How much the size is above what the code computes: 0 when the class can express the result."""
        return self.size(kept) - (evaluated(self.expression, lambda leaf: self.counts[leaf](kept)) or 0)

    def raising(self, gap: int) -> frozenset[int]:
        """The parts of which more units have to stay to close a gap."""
        up, down = _slopes(self.expression, self.counts)
        return up if gap > 0 else self.size.parts | down


@attrs.frozen(eq=False)
class Constraints:
    """The equations of a model.

    Args:
        parts: units that are interchangeable in every equation: the labels of a family, or of a part of one where only
            a part of it lies in one half.
        equations: what the code demands.
    """

    parts: tuple[Ints, ...]
    equations: tuple[Constraint, ...]


def constraints(structure: Structure) -> Constraints:
    """The equations that counts of units must obey so that every module keeps its code.

    Sizes that follow from one shape or one free attribute give none, and neither do those that are not understood: then
    a module may turn out not to keep its code, which the compaction reports.

    Args:
        structure: the couplings.

    Returns:
        The parts and the equations between their counts.
    """
    needs = [(node, *need) for node in structure.graph.nodes for need in _needs(node, structure)]
    free = {e: place for _, place, e in reversed(needs) if isinstance(e, Attribute)}
    known = [need for need in needs if all(isinstance(x, Size) or x in free for x in leaves(need[2]))]
    places = {place for _, place, _ in known}
    at = {x: free[x] if isinstance(x, Attribute) else (x.value, x.dim, 0, -1) for n in known for x in leaves(n[2])}
    parts = _parts(structure, [_rows(structure, place) for place in sorted(places.union(at.values()))])
    number = np.full(structure.labels, -1, np.int64)
    for part, labels in enumerate(parts):
        number[labels] = part
    sizes = {part: len(labels) for part, labels in enumerate(parts)}
    counts = {place: _count(_rows(structure, place), number, sizes) for place in places.union(at.values())}
    found = [_equation(node, counts[place], e, {x: counts[at[x]] for x in leaves(e)}) for node, place, e in known]
    return Constraints(parts, tuple(equation for equation in found if equation is not None))


def _equation(
    node: Node, size: Count | None, expression: Expression, counts: Mapping[Leaf, Count | None]
) -> Constraint | None:
    """An equation that says something about several parts; None for all others."""
    told = {leaf: count for leaf, count in counts.items() if count is not None}
    if size is None or len(told) < len(counts):
        return None
    made = Constraint(node, size, expression, told)
    same = not isinstance(expression, (int, Combined)) and told[expression] == size
    return None if same or not made.parts else made


def _rows(structure: Structure, place: Place) -> Ints:
    value, dim, start, end = place
    rows = structure.rows.get(value)
    if rows is None:  # a value that leads to no output
        return np.zeros((structure.graph.shapes[value][dim], 1), np.int64)
    return rows[dim][start : len(rows[dim]) if end < 0 else end]


def _parts(structure: Structure, runs: Sequence[Ints]) -> tuple[Ints, ...]:
    """Families, taken apart where some of their units occur in a run more often than others."""
    seen = np.zeros(structure.labels, np.uint64)
    with np.errstate(over="ignore"):  # a polynomial hash modulo 2**64
        for rows in runs:
            occurring = np.bincount(rows.ravel(), minlength=len(seen)).astype(np.uint64)
            seen = seen * np.uint64(6364136223846793005) + occurring
    out: list[Ints] = []
    for family in structure.families:
        kinds = np.unique(seen[family.labels], return_inverse=True)[1]
        out += [family.labels[kinds == kind] for kind in range(kinds.max() + 1)]
    return tuple(out)


def _count(rows: Ints, number: Ints, sizes: Mapping[int, int]) -> Count | None:
    """The polynomial of a run; None when its indices are not every combination of the units of some parts."""
    parts = np.sort(number[rows], 1)
    terms: list[tuple[int, tuple[int, ...]]] = []
    for kind in np.unique(parts, axis=0):
        group, names = rows[(parts == kind).all(1)], tuple(kind[kind >= 0].tolist())
        grid = len(np.unique(np.sort(np.where(number[group] >= 0, group, 0), 1), axis=0))
        if grid != prod(sizes[name] for name in names) or len(set(names)) < len(names) or len(group) % grid:
            return None
        terms.append((len(group), names))
    return Count(tuple(terms), {name: sizes[name] for _, names in terms for name in names})


def _slopes(expression: Expression, counts: Mapping[Leaf, Count]) -> tuple[frozenset[int], frozenset[int]]:
    """The parts with which an expression grows, and those with which it falls."""
    if isinstance(expression, int):
        return frozenset(), frozenset()
    if not isinstance(expression, Combined):
        return counts[expression].parts, frozenset()
    (up, down), (up_right, down_right) = (_slopes(e, counts) for e in (expression.left, expression.right))
    if expression.symbol in ("-", "//"):
        up_right, down_right = down_right, up_right
    return up | up_right, down | down_right


def _needs(node: Node, structure: Structure) -> Iterator[tuple[Place, Expression]]:
    """Runs of indices, and what the code of a module computes for how many they are."""
    if node.name not in _SIZED | _PARTED:
        return
    bound = node.bound
    value: int = bound["self"].index
    shape = structure.graph.shapes[value]
    d: int = bound["dim"] % len(shape) if "dim" in bound else 0
    if node.name in _SIZED:
        name = next(name for name in ("size", "shape", "sizes") if name in bound)
        for i, (n, expression) in enumerate(_entries(node, name)):
            if n >= 0:
                yield (node.out, d + i, 0, -1), n if expression is None else expression
    elif node.name == "slice":
        for n, expression in (*_entries(node, "start"), *_entries(node, "end")):
            if isinstance(n, int) and 0 < n < shape[d]:
                yield (value, d, 0, n), n if expression is None else expression
    else:
        for piece, expression in zip(node.outs, _pieces(node, Size(value, d)), strict=False):
            yield (piece, d, 0, -1), expression


_PARTED = frozenset("chunk split split_with_sizes slice".split())
_SIZED = frozenset("view reshape _unsafe_view expand broadcast_to unflatten".split())


def _entries(node: Node, name: str) -> list[tuple[Any, Expression | None]]:
    values = listed(node.bound[name])
    sources = node.sources.get(name, ())
    return list(zip(values, sources if len(sources) == len(values) else (None,) * len(values), strict=True))


def _pieces(node: Node, whole: Size) -> list[Expression]:
    """What the code says about the size of each piece; the last of equal pieces takes the rest."""
    if node.name == "chunk":
        each = Combined("//", Combined("+", whole, node.bound["chunks"] - 1), node.bound["chunks"])
        return [each] * (len(node.outs) - 1)
    (name,) = [name for name in ("split_size", "split_sizes") if name in node.bound]
    told: list[Expression] = [n if e is None else e for n, e in _entries(node, name)]
    return told if isinstance(node.bound[name], (list, tuple)) else told * (len(node.outs) - 1)
