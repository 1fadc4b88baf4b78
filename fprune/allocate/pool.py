"""The layers of one rule under one amount: how many of their elements or channels have to be gone together."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs
from torch import Tensor

from fprune.allocate.budget import Share, layer_rows, masks_of, natural, removals, shares
from fprune.allocate.parameters import Parameters
from fprune.allocate.ties import told
from fprune.config import Config
from fprune.criteria import Criterion, Grain
from fprune.errors import ConfigError
from fprune.masks import Masks
from fprune.scope import Scope
from fprune.tree import Flat

__all__ = ["Bound", "Mark", "Pool", "pooled"]


@attrs.frozen(eq=False)
class Pool:
    """The layers of one rule, which share its amount.

    Args:
        rule: the rule.
        shares: its layers, in the order of the modules.
        limits: weight name -> how many of the present ones the layer may lose at most, those that are masked included.
        name: the allocation, for errors.
        bounded: whether the allocation has bounds of its own.
    """

    rule: int
    shares: tuple[Share, ...]
    limits: Mapping[str, int]
    name: str
    bounded: bool = False

    @property
    def total(self) -> int:
        """Elements or channels in the original model."""
        return sum(share.total for share in self.shares)

    @property
    def gone(self) -> int:
        """How many of them compactions removed."""
        return sum(share.gone for share in self.shares)

    @property
    def dead(self) -> int:
        """How many of the present ones masks removed."""
        return sum(share.dead for share in self.shares)

    @property
    def most(self) -> int:
        """How many of the present ones may go."""
        return sum(self.limits.values())

    @property
    def budget(self) -> Flat[float] | None:
        """The budget of the whole model that the rule has, if that is its amount."""
        return self.shares[0].row.budget

    def wanted(self) -> int:
        """How many of the present ones have to go for the rule's sparsity, at least those that are masked.

        Raises:
            ConfigError: the bounds do not allow as many; the message has how many they allow.
        """
        row = self.shares[0].row
        sparsity = next(amount for amount in (row.total, row.sparsity) if amount is not None)
        wanted = math.floor(sparsity * self.total + 1e-9)
        if wanted > self.gone + self.most:
            most = math.floor((self.gone + self.most) / self.total * 1e4) / 1e4
            capped = any(share.row.cap is not None for share in self.shares)
            bounds = ["max_sparsity_per_layer bounds them"] if capped else []
            bounds += [f"{self.name} bounds some of them"] if self.bounded else []
            told = ", and ".join([*bounds, "every layer keeps one"])
            found = (
                f"rule {self.rule}: sparsity {sparsity:g} over {len(self.shares)} layers removes {wanted} of "
                f"{self.total}, and {told}: at most {self.gone + self.most}"
            )
            others = ["raise max_sparsity_per_layer"] if capped else []
            others += ["take another allocation, such as globally"] if self.bounded else []
            raise ConfigError(found, hint=", or ".join([f"ask for {most:g}", *others]))
        return max(wanted - self.gone, self.dead)


Mark: TypeAlias = Callable[[Pool, int], Mapping[str, Tensor]]
"""A pool and how many of its present ones go -> true where one goes. One more adds to those, and exchanges none."""
Bound: TypeAlias = Callable[[Sequence[Share]], Mapping[str, float]]
"""The layers of a rule -> bounds of their sparsity that the allocation has of its own."""


def _unbounded(shares: Sequence[Share]) -> Mapping[str, float]:
    return {}


def pooled(
    name: str,
    mark: Mark,
    criterion: Criterion,
    params: Mapping[str, Tensor],
    config: Config,
    bound: Bound = _unbounded,
) -> Masks:
    """Remove of each rule's layers together what the rule asks for.

    Args:
        name: the allocation, for errors.
        mark: how a count spreads over the layers of a rule.
        criterion: what scores; its grain decides whether elements or channels go.
        params: name -> weight.
        config: what to prune and how much.
        bound: bounds that the allocation has of its own.

    Returns:
        One mask for each selected weight; channels are masked in the bias too.

    Raises:
        ConfigError: a rule asks for what the bounds do not allow.
    """
    scope, grain = Scope.of(params), natural(criterion)
    found = list(shares(criterion, scope, layer_rows(scope, config, name, budgets=True), grain))
    removed = Masks()
    # what the other rules remove counts towards a budget, so its rule comes last
    for pool in sorted(_pools(name, found, bound), key=lambda pool: (pool.budget is not None, pool.rule)):
        count = _for_budget(pool, mark, scope, grain, removed) if pool.budget is not None else pool.wanted()
        marked = mark(pool, count)
        removed &= masks_of(told((share, marked[share.name]) for share in pool.shares), grain)
    return removed


def _pools(name: str, found: Iterable[Share], bound: Bound) -> list[Pool]:
    rules: dict[int, list[Share]] = {}
    for share in found:
        rules.setdefault(-1 if share.row.rule is None else share.row.rule, []).append(share)
    out: list[Pool] = []
    for rule, group in rules.items():
        own = bound(group)
        limits = {share.name: _limit(share, own.get(share.name, 1.0)) for share in group}
        out.append(Pool(rule, tuple(group), limits, name, bool(own)))
    return out


def _limit(share: Share, own: float) -> int:
    """How many of the present ones a layer may lose; what is masked stays masked."""
    cap = 1.0 if share.row.cap is None else share.row.cap
    return share.present(removals(min(cap, own), share.total))


def _masked(pool: Pool, marked: Mapping[str, Tensor], grain: Grain) -> Masks:
    return masks_of([(share.row.layer, marked[share.name]) for share in pool.shares], grain)


def _for_budget(pool: Pool, mark: Mark, scope: Scope, grain: Grain, others: Masks) -> int:
    """The smallest count that takes enough parameters of the whole model away."""
    parameters = Parameters.of(scope)
    part = 0.0 if pool.budget is None else pool.budget["params"]

    def lost(count: int) -> int:
        return parameters.lost(scope.masks & others & _masked(pool, mark(pool, count), grain))

    needed = parameters.needed(part)
    reached = lost(pool.most)
    if reached < needed:
        parameters.refuse(pool.rule, part, reached, pool.name)
    if grain == "element":  # one element is one parameter
        return pool.dead + max(0, needed - lost(pool.dead))
    return bisect_left(range(pool.most), needed, lo=pool.dead, key=lost)
