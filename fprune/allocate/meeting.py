"""Budgets of the whole model's FLOPs and parameters: the fewest units whose removal meets them."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from fprune.allocate.axes import Axis
from fprune.allocate.taking import Bools, Ints, rooms
from fprune.errors import ConfigError, StructureError
from fprune.scope import Scope
from fprune.structure import Structure, trace
from fprune.structure.cost import Costs, Totals

__all__ = ["Meter", "Portion", "admissible"]

Portion = tuple[int, Ints]
"""The number of a family and the labels of units of it that go together."""


@attrs.frozen(eq=False)
class Meter:
    """How far the present model is from a budget that counts against the original one.

    Args:
        costs: of the present model.
        whole: of the original model.
        budget: `flops` and `params`: fractions of the original to remove.
    """

    costs: Costs
    whole: Totals
    budget: Mapping[str, float]

    @staticmethod
    def of(scope: Scope, structure: Structure, budget: Mapping[str, float]) -> "Meter":
        """Prepare for the model of a scope.

        Raises:
            StructureError: the original model has to be traced, and there are no example inputs.
        """
        costs = Costs.of(structure, scope.params)
        if scope.origin is None:
            return Meter(costs, costs.whole, budget)
        traced = scope.origin_structure
        if not isinstance(traced, Structure):
            if scope.example_inputs is None:
                hint = "pass what the model's forward takes: example_inputs=(x,)"
                raise StructureError("a budget counts against the original model, which is not traced", hint=hint)
            traced = trace(scope.origin, scope.example_inputs)
        return Meter(costs, Costs.of(traced, scope.origin).whole, budget)

    def saves(self, removed: Bools) -> dict[str, float]:
        """The fraction of the original that is gone, for each key of the budget.

        Args:
            removed: which labels are gone.
        """
        left = self.costs(removed)
        wholes = {key: max(1, getattr(self.whole, key)) for key in self.budget}
        return {key: (whole - getattr(left, key)) / whole for key, whole in wholes.items()}

    def meets(self, removed: Bools) -> bool:
        """Whether every part of the budget is met."""
        return all(part >= self.budget[key] - 1e-12 for key, part in self.saves(removed).items())

    def refuse_beyond(self, rule: int, removed: Bools, portions: Sequence[Portion]) -> None:
        """Refuse a budget that is not met with everything gone that may go.

        Args:
            rule: the rule that asks.
            removed: which labels are gone.
            portions: what may go.

        Raises:
            ConfigError: it is not; the hint has what is reached.
        """
        most = self.saves(_without(removed, portions))
        for key, part in self.budget.items():
            if most[key] < part - 1e-12:
                least = max(0.0, self.saves(removed)[key])
                reached = math.floor(most[key] * 1e4) / 1e4
                raise ConfigError(
                    f"rule {rule}: budget {key} {part:g} is out of reach: with every family down to what it keeps, "
                    f"{reached:g} of the model's {key} are gone",
                    hint=f"ask for {math.ceil(least * 1e4) / 1e4:g} to {reached:g}, or select more layers",
                )

    def take(self, removed: Bools, portions: Sequence[Portion]) -> None:
        """Take the fewest portions, from the first on, that meet the budget.

        Args:
            removed: which labels are gone; those taken are added.
            portions: in the order in which they go.
        """
        number = bisect_left(range(len(portions)), True, key=lambda n: self.meets(_without(removed, portions[:n])))
        removed |= _without(removed, portions[:number])


def admissible(found: Sequence[Axis], portions: Sequence[Portion], removed: Bools) -> list[Portion]:
    """The portions that may go, one after the other, before a bound of their family is reached.

    Args:
        found: the families.
        portions: in the order in which they go.
        removed: which labels are gone.
    """
    room, out = rooms(found, removed), list[Portion]()
    for n, labels in portions:
        if room[n] >= len(labels):
            room[n] -= len(labels)
            out.append((n, labels))
    return out


def _without(removed: Bools, portions: Sequence[Portion]) -> Bools:
    out = removed.copy()
    if portions:
        out[np.concatenate([labels for _, labels in portions])] = True
    return out
