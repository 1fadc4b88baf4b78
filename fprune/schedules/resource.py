"""What the layers of a rule cost while units are removed: their weights, or the operations done with them."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal

import attrs
import numpy as np

from fprune.allocate.axes import Axis
from fprune.allocate.budget import removals
from fprune.config import Config
from fprune.errors import CompositionError, ConfigError
from fprune.plan import Row
from fprune.schedules.groups import Floats, Group, Ints, Pool, allocation
from fprune.setting import Setting
from fprune.structure import Structure
from fprune.structure.flops import flops

__all__ = ["Kind", "Ledger", "allocated", "ledgers"]

Kind = Literal["params", "flops"]
Term = tuple[float, tuple[int, ...]]
"""A part of a dimension, and the families that its indices belong to."""


@attrs.frozen(eq=False)
class _Cost:
    """One layer: what it costs, and how each dimension of its weight shrinks."""

    whole: float
    dims: tuple[tuple[Term, ...], ...]

    def left(self, kept: Sequence[float]) -> float:
        """What it costs when a fraction of each family is kept."""
        parts = (sum(share * prod(kept[f] for f in of) for share, of in terms) for terms in self.dims)
        return self.whole * prod(parts)


@attrs.frozen(eq=False)
class Ledger:
    """What removing units saves in the layers of one rule.

    Counts of removed units are given for all groups of all pools, in order: layers shrink with their inputs too, and
    those may be under another rule.

    Args:
        pool: the rule's groups.
        mine: the positions of these groups among all.
        whole: what the layers cost.
        need: what has to be saved.
        units: how many units each group has, for all groups of all pools.
        most: how many of them may go.
        gone: how many of them are gone before the first round.
    """

    pool: Pool
    mine: tuple[int, ...]
    whole: float
    need: float
    units: tuple[int, ...]
    most: tuple[int, ...]
    gone: tuple[int, ...]
    _groups: tuple[Group, ...]
    _costs: tuple[_Cost, ...]
    _each: Floats

    def saved(self, counts: Sequence[int]) -> float:
        """What the layers cost less when so many units of each group are gone."""
        if not self._costs:
            return float(self._each @ np.array(counts))
        kept: list[float] = []
        for group, count in zip(self._groups, counts, strict=True):
            kept += [_kept(axis, group, count) for axis in group.axes]
        return self.whole - sum(cost.left(kept) for cost in self._costs)

    def met(self, counts: Sequence[int], need: float | None = None) -> bool:
        """Whether they save enough, up to rounding."""
        asked = self.need if need is None else need
        return self.saved(counts) >= asked - 1e-9 * self.whole

    def least(self, counts: Sequence[int], at: int, need: float) -> int:
        """The smallest count of one group that saves as much, the others as given; its bound when none does."""
        low, high = self.gone[at], self.most[at]
        while low < high:
            middle = (low + high) // 2
            if self.met([*counts[:at], middle, *counts[at + 1 :]], need):
                high = middle
            else:
                low = middle + 1
        return low


def _kept(axis: Axis, group: Group, count: int) -> float:
    total = axis.family.original
    asked = count if total == group.units else removals(count / group.units, total)
    return 1.0 - axis.removes(asked) / total


def ledgers(setting: Setting, found: Sequence[Pool], kind: Kind, who: str) -> tuple[Ledger, ...]:
    """What each pool has to save, and how.

    `"params"` counts the weights of a rule's layers, `"flops"` the operations done with them. Where there is a
    structure both are those of the compact model: a layer shrinks with its own channels and with those it reads.

    Args:
        setting: the layers, and the structure if it matters.
        found: the pools of this setting.
        kind: what is counted.
        who: the schedule, for errors.

    Raises:
        CompositionError: operations cannot be counted without a structure.
        ConfigError: the bounds of the layers do not let a rule save what it asks for.
    """
    structure = setting.structure if setting.coupled else None
    if structure is None and kind == "flops":
        raise CompositionError(
            f"{who}: operations are counted where whole units go with everything coupled to them",
            hint="prune with an allocation such as l1(dependency_aware), or count 'params'",
        )
    groups = tuple(group for pool in found for group in pool.groups)
    units, most = tuple(group.units for group in groups), tuple(group.most for group in groups)
    gone = tuple(group.least for group in groups)
    price = {} if structure is None or kind == "params" else _operations(structure)
    out: list[Ledger] = []
    start = 0
    for pool in found:
        rows = [row for row in setting.plan.selected if row.rule == pool.rule]
        costs = () if structure is None else _costs(structure, rows, groups, price if kind == "flops" else None)
        whole = float(sum(cost.whole for cost in costs)) if costs else float(pool.weights)
        need = pool.total * whole if costs else float(np.floor(pool.total * whole + 1e-9))
        mine = tuple(range(start, start + len(pool.groups)))
        start += len(pool.groups)
        each = np.array([g.weights / g.units if at in mine else 0.0 for at, g in enumerate(groups)])
        ledger = Ledger(pool, mine, whole, need, units, most, gone, groups, costs, each)
        _refuse_unreachable(ledger, kind)
        out.append(ledger)
    return tuple(out)


def allocated(setting: Setting, books: Sequence[Ledger], counts: Sequence[int]) -> Config:
    """The config that removes so many units of each group."""
    shares = [np.array([counts[at] / book.units[at] for at in book.mine]) for book in books]
    return allocation(setting.plan, [book.pool for book in books], shares)


def _refuse_unreachable(ledger: Ledger, kind: Kind) -> None:
    only = [most if at in ledger.mine else ledger.gone[at] for at, most in enumerate(ledger.most)]
    if not ledger.met(only):
        reachable = ledger.saved(only) / ledger.whole if ledger.whole else 0.0
        raise ConfigError(
            f"rule {ledger.pool.rule}: {ledger.pool.total:g} of the {kind} of its layers is out of reach",
            hint=f"ask for at most {int(reachable * 1e4) / 1e4:g}, or raise max_sparsity_per_layer",
        )


def _operations(structure: Structure) -> dict[str, float]:
    """Operations per element of each weight, in all calls that use it."""
    graph = structure.graph
    origin = dict(graph.tensors)
    price: dict[str, float] = {}
    for node in graph.nodes:
        work = flops(node, graph.shapes.__getitem__)
        names = dict.fromkeys(origin[index] for index in node.inputs if index in origin)
        names = [name for name in names if len(_shape(structure, name)) > 1]
        if work and names:
            size = sum(prod(_shape(structure, name)) for name in names)
            price.update({name: price.get(name, 0.0) + work / size for name in names})
        elif len(node.inputs) == 1 and node.inputs[0] in origin:
            origin.update(dict.fromkeys(node.outs, origin[node.inputs[0]]))  # a view of a weight is the weight
    return price


def _shape(structure: Structure, name: str) -> tuple[int, ...]:
    return next(structure.graph.shapes[index] for index, tensor in structure.graph.tensors.items() if tensor == name)


def _costs(
    structure: Structure, rows: Sequence[Row], groups: Sequence[Group], price: Mapping[str, float] | None
) -> tuple[_Cost, ...]:
    number = np.full(structure.labels, -1, np.int64)
    for at, axis in enumerate(axis for group in groups for axis in group.axes):
        number[axis.family.labels] = at
    at = {name: index for index, name in structure.graph.tensors.items()}
    used = [row.layer for row in rows if row.layer.weight in at]
    return tuple(
        _Cost(
            prod(layer.shape) * (1.0 if price is None else price.get(layer.weight, 0.0)),
            tuple(_terms(number[dim]) for dim in structure.rows[at[layer.weight]]),
        )
        for layer in used
    )


def _terms(families: Ints) -> tuple[Term, ...]:
    """How much of a dimension belongs to which families: an index is kept while all its units are."""
    found: dict[tuple[int, ...], int] = {}
    rows, counts = np.unique(families, axis=0, return_counts=True)
    for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
        key = tuple(sorted({family for family in row if family >= 0}))
        found[key] = found.get(key, 0) + count
    return tuple((count / len(families), key) for key, count in found.items())
