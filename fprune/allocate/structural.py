"""What allocations of whole units have in common: from the couplings and the scores to masks."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final, overload

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.allocate.axes import Axis, axes, staying
from fprune.allocate.budget import refuse_over_bound
from fprune.allocate.keeping import keep_class
from fprune.allocate.meeting import Meter, Portion, admissible
from fprune.allocate.taking import Bools, Floats
from fprune.allocate.ties import arbitrary, warn
from fprune.allocate.units import Normalisation, Reduction, Scoring, structure_of, unit_masks
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks
from fprune.plan import Plan, Row
from fprune.scope import Scope
from fprune.structure import Structure, masked_units

__all__ = ["Order", "Structural", "Units", "structural", "units_of"]

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


Take: TypeAlias = Callable[[Units, Floats], None]
"""Adds to the units that are gone, by a score for each label."""


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


@final
class Structural:
    """An allocation of whole units; made by `structural`, called with options alone it gives the same with options."""

    needs = frozenset({"example_inputs", "structure"})

    def __init__(self, take: Take, scoring: Scoring, plain: "Structural | None" = None) -> None:
        """Wrap a function; `plain` is the allocation that options were given to."""
        functools.update_wrapper(self, take)
        self.take, self.scoring, self.plain = take, scoring, plain
        self.__signature__ = inspect.signature(self.__call__)  # not that of the function inside

    @overload
    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config, /) -> Masks: ...
    @overload
    def __call__(self, /, *, reduction: Reduction = "mean", normalisation: Normalisation = "mean") -> "Structural": ...
    def __call__(
        self,
        criterion: Criterion | None = None,
        params: Mapping[str, Tensor] | None = None,
        config: Config | None = None,
        /,
        *,
        reduction: Reduction = "mean",
        normalisation: Normalisation = "mean",
    ) -> "Masks | Structural":
        """Return one bool mask for each parameter that a removed unit reaches; with options alone, the allocation."""
        if criterion is None or params is None or config is None:
            return self.scored(Scoring(reduction, normalisation))
        scope, config = Scope.of(params), Config.of(config)
        units = units_of(scope, config, self.take.__name__)
        scores = self.scoring(criterion, scope, units.structure, units.found)
        scores[units.removed] = -np.inf
        before = units.removed.copy()
        self.take(units, scores)
        warn([axis.family.name for axis in units.found if _arbitrary(axis, scores, units.removed)])
        if any(axis.keep_class for axis in units.found):
            keep_class(units.structure, units.found, before, units.removed, scores)
        return unit_masks(units.structure, units.removed, scope)

    def scored(self, scoring: Scoring) -> "Structural":
        """The same allocation with other scores of units."""
        return Structural(self.take, scoring, self.plain or self)

    def foresees(self, structure: Structure, plan: Plan) -> Mapping[str, str]:
        """Which selected layers will not lose what was asked, and why."""
        return staying(structure, plan)

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget that cannot be met, before anything is scored.

        What other rules take is taken first, as units of equal score would be; which of them go does not matter.

        Raises:
            ConfigError: it cannot; the hint has what can.
        """
        units = units_of(scope, config, self.take.__name__)
        if units.with_budget():
            self.take(units, np.where(units.removed, -np.inf, 0.0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structural) and (self.take, self.scoring) == (other.take, other.scoring)

    def __hash__(self) -> int:
        return hash((self.take, self.scoring))

    def __repr__(self) -> str:
        return f"{self.take.__name__}{self.scoring.options}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The name of the function leads to the plain allocation, so options are given to that anew.
        return self.take.__qualname__ if self.plain is None else (Structural.scored, (self.plain, self.scoring))


def _arbitrary(axis: Axis, scores: Floats, removed: Bools) -> bool:
    labels = axis.family.labels
    return arbitrary(torch.from_numpy(scores[labels]), torch.from_numpy(removed[labels]))


def structural(take: Take) -> Structural:
    """Make an allocation of whole units.

    Examples:
        >>> @structural
        ... def nothing(units, scores):
        ...     pass
        >>> nothing, nothing(reduction="max"), sorted(nothing.needs)
        (nothing, nothing(reduction='max'), ['example_inputs', 'structure'])

    Args:
        take: gets the units of a config and a score for each label, and adds to the units that are gone.
    """
    return Structural(take, Scoring())
