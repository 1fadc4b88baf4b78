"""What an allocation divides an amount over: layers, or those together that the model's couplings tie together."""

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fprune.allocate.axes import Axis, axes
from fprune.allocate.budget import removals
from fprune.config import Config
from fprune.errors import ConfigError
from fprune.plan import Plan, Row
from fprune.setting import Setting

__all__ = ["Floats", "Group", "Ints", "Pool", "allocation", "pools"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@attrs.frozen(eq=False)
class Group:
    """Layers that get one sparsity.

    Args:
        rows: the layers.
        cap: the smallest bound of these layers.
        units: how many go one by one: channels where there is a structure, else weights.
        axes: the families of units that go, where there is a structure.
        least: how many units are gone before the first round.
        weights: elements of the layers' weights.
        most: how many units may go: one stays at least.
    """

    rows: tuple[Row, ...]
    cap: float
    units: int
    axes: tuple[Axis, ...] = ()
    least: int = 0
    weights: int = attrs.field(init=False, default=attrs.Factory(lambda self: _weights(self.rows), takes_self=True))
    most: int = attrs.field(init=False, default=attrs.Factory(lambda self: _most(self), takes_self=True))

    @property
    def names(self) -> str:
        """The layers in words."""
        return " with ".join(repr(row.exact_name) for row in self.rows)


@attrs.frozen(eq=False)
class Pool:
    """The groups that share the amount of one rule.

    Args:
        rule: its number.
        total: the fraction to remove of all its layers together.
        weights: elements of all its layers' weights, those included that can lose nothing.
        groups: what can lose something.
        sizes: weights of each group.
        caps: the bound of each group; less than 1, since one unit stays.
        units: units of each group.
        most: how many units of each group may go.
        least: how many of them are gone before the first round.
    """

    rule: int
    total: float
    weights: int
    groups: tuple[Group, ...]
    sizes: Floats
    caps: Floats
    units: Ints
    most: Ints
    least: Ints

    @property
    def need(self) -> float:
        """How many weights are to go, or are gone."""
        return max(self.total * self.weights, float(self.least @ (self.sizes / self.units)))

    @staticmethod
    def of(rule: int, rows: Sequence[Row], groups: Sequence[Group]) -> "Pool":
        """The pool of a rule: all its layers, and what of them can lose something."""
        caps = [
            min(max(group.cap, group.least / group.units), removals(1.0, group.units) / group.units) for group in groups
        ]
        return Pool(
            rule,
            _amount(rows[0]),
            _weights(rows),
            tuple(groups),
            np.array([group.weights for group in groups], np.float64),
            np.array(caps, np.float64),
            np.array([group.units for group in groups], np.int64),
            np.array([group.most for group in groups], np.int64),
            np.array([group.least for group in groups], np.int64),
        )


def pools(setting: Setting, *, cap: float = 1.0) -> tuple[Pool, ...]:
    """Divide the selected layers by the rule whose amount they share.

    Where the pruner goes by the couplings of the model, layers whose channels go together are one group, and layers
    that can lose no channel are in no group; their weights still count. An amount is `total_sparsity`, or `sparsity`
    taken for all layers of the rule.

    Args:
        setting: the layers, and the structure if it matters.
        cap: a bound for layers that have none.

    Raises:
        ConfigError: coupled layers have different rules; a rule has a budget; no layer can lose anything.
    """
    plan = setting.plan
    _refuse_budget(plan)
    traced = setting.structure if setting.coupled else None
    grouped = _single(setting, cap) if traced is None else _coupled(setting, axes(traced, plan), cap)
    found: list[Pool] = []
    for rule in sorted({row.rule for row in plan.selected if row.rule is not None}):
        rows = [row for row in plan.selected if row.rule == rule]
        groups = tuple(group for group in grouped if group.rows[0].rule == rule)
        if groups or _amount(rows[0]) > 0:
            found.append(Pool.of(rule, rows, groups))
    return tuple(found)


def _refuse_budget(plan: Plan) -> None:
    for row in plan.selected:
        if row.budget is not None:
            raise ConfigError(
                f"rule {row.rule}: a search divides sparsity over layers, and a budget leaves that to the allocation",
                hint="give total_sparsity; netadapt(target='flops') and amc(..., target='flops') count operations",
            )


def _weights(rows: Iterable[Row]) -> int:
    return sum(math.prod(row.layer.shape) for row in rows)


def _most(group: Group) -> int:
    most = min(math.floor(group.cap * group.units + 1e-9), removals(1.0, group.units))
    return max(most, group.least)


def _amount(row: Row) -> float:
    return next((amount for amount in (row.total, row.sparsity) if amount is not None), 0.0)


def _cap(rows: Iterable[Row], cap: float) -> float:
    return min(cap if row.cap is None else row.cap for row in rows)


def _single(setting: Setting, cap: float) -> list[Group]:
    return [_group(setting, (row,), cap, _weights((row,)), ()) for row in setting.plan.selected]


def _group(setting: Setting, rows: tuple[Row, ...], cap: float, units: int, found: tuple[Axis, ...]) -> Group:
    gone = max(setting.removed.get(row.layer.weight, 0.0) for row in rows)
    return Group(rows, _cap(rows, cap), units, found, min(math.ceil(gone * units - 1e-6), removals(1.0, units)))


def _coupled(setting: Setting, found: Sequence[Axis], cap: float) -> list[Group]:
    """Layers that share a family, directly or through others."""
    parts: list[set[str]] = []
    for axis in found:
        meeting = [part for part in parts if not part.isdisjoint(axis.channels)]
        parts = [part for part in parts if part.isdisjoint(axis.channels)]
        parts.append(set(axis.channels).union(*meeting))
    plan, groups = setting.plan, list[Group]()
    for row in plan.selected:
        part = next((part for part in parts if row.layer.weight in part), None)
        if part is None:
            continue
        parts.remove(part)
        rows = tuple(r for r in plan.selected if r.layer.weight in part)
        _refuse_two_rules(rows)
        mine = tuple(axis for axis in found if not part.isdisjoint(axis.channels))
        groups.append(_group(setting, rows, cap, max(axis.family.original for axis in mine), mine))
    return groups


def _refuse_two_rules(rows: Sequence[Row]) -> None:
    if len({row.rule for row in rows}) > 1:
        told = ", ".join(f"{row.exact_name!r} (rule {row.rule})" for row in rows)
        raise ConfigError(
            f"layers that lose their channels together share the amounts of different rules: {told}",
            hint="select them by one rule, or exclude them",
        )


def allocation(plan: Plan, found: Iterable[Pool], shares: Iterable[Sequence[float] | Floats]) -> Config:
    """The config that gives every group its sparsity.

    Args:
        plan: the target, resolved.
        found: the pools.
        shares: for each pool, a sparsity for each group.
    """
    sparsities: Mapping[str, float] = {
        row.layer.weight: float(share)
        for pool, mine in zip(found, shares, strict=True)
        for group, share in zip(pool.groups, mine, strict=True)
        for row in group.rows
    }
    return Config.allocated(plan, sparsities)


def refuse_unreachable(found: Iterable[Pool]) -> None:
    """Refuse an amount that the bounds of the layers do not allow.

    Raises:
        ConfigError: names the layers with the smallest bounds, and says what can be reached.
    """
    for pool in found:
        reachable = float(pool.sizes @ pool.caps) / pool.weights
        if pool.total > reachable + 1e-12:
            told = ", ".join(f"{group.names} at most {cap:.4g}" for group, cap in _tightest(pool))
            idle = pool.weights - int(pool.sizes.sum())
            rest = f"; {idle} of {pool.weights} weights are in layers that can lose nothing" if idle else ""
            raise ConfigError(
                f"rule {pool.rule}: a sparsity of {pool.total:g} over its layers is out of reach ({told}{rest})",
                hint=f"ask for at most {math.floor(reachable * 1e4) / 1e4:g}, or raise max_sparsity_per_layer",
            )


def _tightest(pool: Pool) -> list[tuple[Group, float]]:
    pairs = zip(pool.groups, pool.caps.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: pair[1])[:4]
