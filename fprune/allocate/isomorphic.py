"""Whole units that compete with their like: families with the same sub-structure share one amount."""

from collections.abc import Sequence

from fprune.allocate.axes import Axis
from fprune.allocate.meeting import Portion
from fprune.allocate.structural import Units, structural
from fprune.allocate.taking import Bools, Floats, in_order, take_shared
from fprune.structure import Family, Structure

__all__ = ["isomorphic"]


@structural
def isomorphic(units: Units, scores: Floats) -> None:
    """Remove whole units, ranked among the units of families that are built alike.

    Families whose slices are used by the same kinds of operators, along the same dimensions and with the same kernels
    are one class: the inner channels of all basic blocks, the heads of all attentions, the streams of all stages. In
    each class `floor(s * n)` of its units go, wherever in the class their scores are lowest, and every family keeps
    one. Scores of unlike things, such as heads and hidden channels, are so never compared. Both `sparsity` and
    `total_sparsity` give the amount of a class; with a `budget` all classes lose the same fraction, the smallest that
    meets it.

    Units, scores, bounds and multiples are those of `dependency_aware`.

    Examples:
        >>> import torch
        >>> from fprune import Model, l1
        >>> net = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
        >>> for layer, scale in zip(net, (1.0, 9.0, 1.0)):
        ...     layer.weight = torch.nn.Parameter(scale * torch.diag(torch.arange(1.0, 5.0)))
        >>> plain = {"reduction": "mean", "normalisation": "none"}
        >>> masks = l1(isomorphic(**plain)).masks(Model.from_module(net), 0.5, example_inputs=torch.ones(1, 4))
        >>> masks["0.bias"].tolist(), masks["1.bias"].tolist()
        ([False, False, False, True], [False, True, True, True])

    Args:
        units: the families that a config prunes; filled in by the pruner, as are the scores.
        scores: a score for each label; the options are those of `dependency_aware`: `isomorphic(reduction="max")`.

    References:
        Fang et al, `Isomorphic Pruning for Vision Models <https://arxiv.org/abs/2407.04616>`_, 2024
    """
    for rule in units.without_budget():
        for alike in _classes(units.structure, rule):
            total = sum(axis.family.original * sum(axis.channels.values()) for axis in alike)
            row = next(row for row in units.rows if row.rule == rule[0].rule)
            amount = next(part for part in (row.sparsity, row.total) if part is not None)
            take_shared(alike, amount, total, scores, units.removed)
    units.meet(scores, lambda found, s, removed: _side_by_side(units.structure, found, s, removed))


def _classes(structure: Structure, found: Sequence[Axis]) -> list[list[Axis]]:
    """Families of the same form together, in the order of the first of each."""
    classes: dict[object, list[Axis]] = {}
    for axis in found:
        classes.setdefault(_form(structure, axis.family), []).append(axis)
    return list(classes.values())


def _form(structure: Structure, family: Family) -> tuple[object, ...]:
    """What a family is built of: for each slice the operators that use its tensor, its dimension and the kernel.

    How many channels there are does not matter, so a family has the same form after a compaction.
    """
    users: dict[str, list[str]] = {}
    for node in structure.graph.nodes:
        for index in node.inputs:
            if index in structure.graph.tensors:
                users.setdefault(structure.graph.tensors[index], []).append(node.name)
    by_name = {name: index for index, name in structure.graph.tensors.items()}
    parts: list[tuple[object, ...]] = []
    for part in family.slices:
        index = by_name[part.tensor]
        sizes = structure.graph.shapes[index]
        single = tuple(n == 1 and not rows.any() for n, rows in zip(sizes, structure.rows[index], strict=True))
        parts.append((tuple(sorted(users.get(part.tensor, ()))), part.dim, single[:2], sizes[2:]))
    return family.role, *sorted(parts, key=repr)


def _side_by_side(structure: Structure, found: Sequence[Axis], scores: Floats, removed: Bools) -> list[Portion]:
    """The units of all classes in an order in which each class has lost about the same fraction at any time."""
    ranked: list[tuple[float, int, Portion]] = []
    number = {id(axis): n for n, axis in enumerate(found)}
    for place, alike in enumerate(_classes(structure, found)):
        size = sum(axis.family.original for axis in alike)
        gone = size - sum(int((~removed[axis.family.labels]).sum()) for axis in alike)
        for n, labels in in_order(alike, scores, removed):
            gone += len(labels)
            ranked.append((gone / size, place, (number[id(alike[n])], labels)))
    return [portion for *_, portion in sorted(ranked, key=lambda item: item[:2])]
