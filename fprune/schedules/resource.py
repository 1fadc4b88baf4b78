"""What the layers of a rule cost while units are removed: their weights, or the operations done with them."""

from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np

from fprune.allocate.axes import Axis
from fprune.allocate.budget import removals
from fprune.config import Config
from fprune.errors import CompositionError, ConfigError
from fprune.schedules.groups import Floats, Group, Pool, allocation
from fprune.setting import Setting
from fprune.structure.cost import Costs

__all__ = ["Kind", "Ledger", "allocated", "ledgers"]

Kind = Literal["params", "flops"]


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
    _kind: Kind
    _costs: Costs | None
    _each: Floats

    def saved(self, counts: Sequence[int]) -> float:
        """What the layers cost less when so many units of each group are gone."""
        if self._costs is None:
            return float(self._each @ np.array(counts))
        removed = np.zeros(self._costs.structure.labels, np.bool_)
        for group, count in zip(self._groups, counts, strict=True):
            for axis in group.axes:
                removed[axis.family.labels[: _removed(axis, group, count)]] = True
        return self.whole - getattr(self._costs(removed), self._kind)

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


def _removed(axis: Axis, group: Group, count: int) -> int:
    total = axis.family.original
    return axis.removes(count if total == group.units else removals(count / group.units, total))


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
    out: list[Ledger] = []
    start = 0
    for pool in found:
        rows = [row for row in setting.plan.selected if row.rule == pool.rule]
        costs = None if structure is None else Costs.of(structure, only=[row.layer.weight for row in rows])
        whole = float(pool.weights if costs is None else getattr(costs.whole, kind))
        need = float(np.floor(pool.total * whole + 1e-9)) if costs is None else pool.total * whole
        mine = tuple(range(start, start + len(pool.groups)))
        start += len(pool.groups)
        each = np.array([g.weights / g.units if at in mine else 0.0 for at, g in enumerate(groups)])
        ledger = Ledger(pool, mine, whole, need, units, most, gone, groups, kind, costs, each)
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
