"""What allocations of whole units have in common: from the couplings and the scores to masks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
import numpy as np
from torch import Tensor

from fprune.allocate.axes import Axis, axes
from fprune.allocate.budget import refuse_over_bound
from fprune.allocate.keeping import keep_class
from fprune.allocate.meeting import Meter, Portion, admissible
from fprune.allocate.taking import Bools, Floats
from fprune.allocate.units import Scoring, structure_of, unit_masks
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks
from fprune.plan import Row
from fprune.scope import Scope
from fprune.structure import Structure, masked_units

__all__ = ["Order", "Units", "allocated", "refuse_unreachable", "units_of"]

Order: TypeAlias = Callable[[Sequence[Axis], Floats, Bools], list[Portion]]
"""Families, scores and what is gone -> the units that are left, in the order in which they go."""


@attrs.frozen(eq=False)
class Units:
    """The families that a config prunes, and what is gone of them.

    Args:
        structure: the couplings.
        found: the families.
        rows: the selected layers.
        scope: the parameters.
        removed: `(labels,)`, which units are gone; allocations add to it.
    """

    structure: Structure
    found: tuple[Axis, ...]
    rows: tuple[Row, ...]
    scope: Scope
    removed: Bools

    def with_budget(self) -> list[Axis]:
        """The families whose rule has a budget of the whole model; those of one rule."""
        return [axis for axis in self.found if axis.budget is not None]

    def without_budget(self) -> list[list[Axis]]:
        """The other families, rule by rule."""
        rules = sorted({axis.rule for axis in self.found if axis.budget is None})
        return [[axis for axis in self.found if axis.rule == rule] for rule in rules]

    def meet(self, scores: Floats, order: Order) -> None:
        """Take the fewest units that meet the budget, if there is one.

        Args:
            scores: a score for each label.
            order: in which the units of the rule go.
        """
        found = self.with_budget()
        if found and found[0].budget is not None:
            meter = Meter.of(self.scope, self.structure, found[0].budget)
            portions = admissible(found, order(found, scores, self.removed), self.removed)
            meter.refuse_beyond(found[0].rule, self.removed, portions)
            meter.take(self.removed, portions)


def units_of(scope: Scope, config: Config, name: str) -> Units:
    """The families that a config prunes, with what masks removed of them.

    Raises:
        ConfigError: the config asks for what the couplings do not allow.
        StructureError: the structure is not known and cannot be traced.
    """
    structure, plan = structure_of(scope, name), scope.plan(config)
    for row in plan.selected:
        refuse_over_bound(row)
    removed = masked_units(structure, scope.masks, {name: tuple(value.shape) for name, value in scope.items()})
    return Units(structure, axes(structure, plan), plan.selected, scope, removed)


def allocated(
    name: str,
    scoring: Scoring,
    take: Callable[[Units, Floats], None],
    criterion: Criterion,
    params: Mapping[str, Tensor],
    config: Config,
) -> Masks:
    """Score the units, take some, and mask every slice of those.

    Args:
        name: the allocation, for errors.
        scoring: makes a unit's score of its channels'.
        take: adds to the units that are gone.
        criterion: scores channels.
        params: the parameters.
        config: what to prune and how much.

    Returns:
        One mask for each parameter that a removed unit reaches.
    """
    scope, config = Scope.of(params), Config.of(config)
    units = units_of(scope, config, name)
    scores = scoring(criterion, scope, units.structure, units.found)
    scores[units.removed] = -np.inf
    before = units.removed.copy()
    take(units, scores)
    if any(axis.keep_class for axis in units.found):
        keep_class(units.structure, units.found, before, units.removed, scores)
    return unit_masks(units.structure, units.removed, scope)


def refuse_unreachable(scope: Scope, config: Config, name: str, take: Callable[[Units, Floats], None]) -> None:
    """Refuse a budget that cannot be met, before anything is scored.

    What other rules take is taken first, as units of equal score would be; which of them go does not matter.

    Raises:
        ConfigError: it cannot; the hint has what can.
    """
    units = units_of(scope, config, name)
    if units.with_budget():
        take(units, np.where(units.removed, -np.inf, 0.0))
