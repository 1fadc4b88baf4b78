"""Take units: of every family its own share, or of all families under one budget. Exact counts, ties by position."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fprune.allocate.axes import Axis
from fprune.allocate.budget import removals
from fprune.errors import ConfigError
from fprune.plan import Row
from fprune.scope import Scope
from fprune.structure import Structure

__all__ = ["Bools", "Floats", "Ints", "channels_of", "in_order", "rooms", "take_each", "take_shared"]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


def take_each(
    structure: Structure, found: Sequence[Axis], rows: Sequence[Row], scope: Scope, scores: Floats, removed: Bools
) -> None:
    """Per layer: of every family its own share, and of a layer with several families what the shares round away.

    Args:
        structure: the couplings.
        found: the families, each with a sparsity.
        rows: the selected layers.
        scope: the parameters.
        scores: a score for each label.
        removed: which labels are gone; those taken are added.
    """
    goal = {n: axis.family.original * (axis.sparsity or 0.0) for n, axis in enumerate(found)}
    amount = {
        n: a.removes(removals(a.sparsity or 0.0, a.family.original), _already(a, removed)) for n, a in enumerate(found)
    }
    left = {row.layer.weight: removals(row.sparsity or 0.0, channels_of(row, found, scope)) for row in rows}
    for n, axis in enumerate(found):
        for name, width in axis.channels.items():
            left[name] -= width * amount[n]
    floor = cache(lambda: _Floor(structure, found))  # most configs never come near an empty dimension
    for n in sorted(amount, key=lambda n: (amount[n] - goal[n], n)):  # the largest remainder first
        short = amount[n] < min(goal[n], found[n].family.original)
        fits = all(left[name] >= width for name, width in found[n].channels.items())
        if short and fits and found[n].allows(amount[n] + 1) and floor().allows(n, amount):
            amount[n] += 1
            left.update({name: left[name] - width for name, width in found[n].channels.items()})
    for n, axis in enumerate(found):
        gone = axis.family.original - len(axis.family)
        labels = axis.family.labels
        lowest = np.argsort(scores[labels], kind="stable")[: amount[n] - gone]
        removed[labels[lowest]] = True


def channels_of(row: Row, found: Sequence[Axis], scope: Scope) -> int:
    """How many original channels of a layer its sparsity speaks of: all of them, or those of the units it names."""
    if row.granularity is None:
        return scope.original_units(row.layer)
    return sum(axis.channels.get(row.layer.weight, 0) * axis.family.original for axis in found)


class _Floor:
    """No dimension of any value may become empty."""

    def __init__(self, structure: Structure, found: Sequence[Axis]) -> None:
        """Look at which families make up each dimension."""
        number = np.full(structure.labels, -1, np.int64)
        for n, axis in enumerate(found):
            number[axis.family.labels] = n
        self._found = found
        self._alone: set[int] = set()  # families that every index of some dimension belongs to
        self._together: set[frozenset[int]] = set()  # families that make up some dimension between them
        for dims in structure.rows.values():
            for rows in dims:
                if rows.any():
                    families = number[rows]
                    self._alone.update(n for n in np.unique(families).tolist() if (families == n).any(1).all())
                    if (families >= 0).any(1).all():
                        self._together.add(frozenset(np.unique(families[families >= 0]).tolist()))

    def allows(self, n: int, amount: Mapping[int, int]) -> bool:
        """Whether one more unit of a family may go."""
        if amount[n] + 1 < self._found[n].family.original:
            return True
        if n in self._alone:
            return False
        others = (group - {n} for group in self._together if n in group)
        return all(any(amount[m] < self._found[m].family.original for m in group) for group in others)


def _already(axis: Axis, removed: Bools) -> int:
    return axis.family.original - len(axis.family) + int(removed[axis.family.labels].sum())


def take_shared(found: Sequence[Axis], amount: float, total: int, scores: Floats, removed: Bools) -> None:
    """Under one budget: the lowest units of all families, each counted by the channels the rule's layers lose.

    Units that go `round_to` at a time compete by the mean of their scores.

    Args:
        found: the families that share it.
        amount: the fraction of the channels to remove.
        total: the channels that it is a fraction of, in the original model.
        scores: a score for each label.
        removed: which labels are gone; those taken are added.

    Raises:
        ConfigError: the families cannot lose as much; the hint has what they can.
    """
    costs = [sum(axis.channels.values()) for axis in found]
    past = [_already(axis, removed) for axis in found]
    wanted = math.floor(amount * total + 1e-9)
    room = rooms(found, removed)
    spent = sum(gone * cost for gone, cost in zip(past, costs, strict=True))
    reachable = spent + sum(count * cost for count, cost in zip(room, costs, strict=True))
    if wanted > reachable:
        key = "sparsity" if found[0].sparsity is not None else "total_sparsity"
        raise ConfigError(
            f"rule {found[0].rule}: {key} {amount:g} is out of reach: every family keeps a unit, some are bounded",
            hint=f"ask for at most {math.floor(reachable / total * 1e4) / 1e4:g}, or raise max_sparsity_per_layer",
        )
    budget = wanted - spent
    for n, block in in_order(found, scores, removed):
        if room[n] >= len(block) and costs[n] * len(block) <= budget:
            removed[block] = True
            room[n] -= len(block)
            budget -= costs[n] * len(block)


def rooms(found: Sequence[Axis], removed: Bools) -> list[int]:
    """How many more units of each family may go, under its bound and so that multiples and `min_kept` are kept.

    Args:
        found: the families.
        removed: which labels are gone.
    """
    past = [_already(axis, removed) for axis in found]
    most = [min(math.floor(a.cap * a.family.original + 1e-9), a.family.original - 1) for a in found]
    return [axis.removes(limit, gone) - gone for axis, limit, gone in zip(found, most, past, strict=True)]


def in_order(found: Sequence[Axis], scores: Floats, removed: Bools) -> list[tuple[int, Ints]]:
    """The units that are left, in portions that leave multiples of `round_to`, the lowest mean score first.

    Args:
        found: the families.
        scores: a score for each label.
        removed: which labels are gone.

    Returns:
        The number of the family and the labels of each portion.
    """
    blocks = [(n, b) for n, axis in enumerate(found) for b in _blocks(axis, _already(axis, removed), scores, removed)]
    return [blocks[at] for at in _by_mean([block for _, block in blocks], scores)]


def _by_mean(blocks: Sequence[Ints], scores: Floats) -> list[int]:
    """Positions of the blocks, the lowest mean score first."""
    if not blocks:
        return []
    sizes = np.array([len(block) for block in blocks])
    sums = np.add.reduceat(scores[np.concatenate(blocks)], np.cumsum(sizes) - sizes)
    order: Ints = np.argsort(sums / sizes, kind="stable")
    return [int(at) for at in order]


def _blocks(axis: Axis, gone: int, scores: Floats, removed: Bools) -> list[Ints]:
    """The units that are left, lowest first, in portions that leave a multiple of `round_to`."""
    labels = axis.family.labels[~removed[axis.family.labels]]
    labels = labels[np.argsort(scores[labels], kind="stable")]
    over = (axis.family.original - gone) % axis.round_to
    parts: list[Ints] = np.split(labels, range(over, len(labels), axis.round_to))
    return [part for part in parts if len(part)]
