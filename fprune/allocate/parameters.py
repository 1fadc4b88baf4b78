"""Parameters of the whole model, for budgets of allocations that mask single layers."""

import math
from collections.abc import Callable
from typing import NoReturn

import attrs

from fprune.allocate.budget import layer_rows, removals
from fprune.config import Config
from fprune.errors import ConfigError
from fprune.masks import Masks
from fprune.plan import Row
from fprune.scope import Scope

__all__ = ["Parameters", "refuses_beyond"]


@attrs.frozen(eq=False)
class Parameters:
    """How many parameters the original model has, and how many of them are gone.

    Examples:
        >>> import torch
        >>> parameters = Parameters.of(Scope.of({"a": torch.ones(4, 5), "b": torch.ones(10)}))
        >>> parameters.needed(0.25), parameters.lost(Masks({"b": torch.arange(10) > 3}))
        (8, 4)

    Args:
        scope: the present parameters.
        whole: elements of all parameters of the original model.
    """

    scope: Scope
    whole: int

    @staticmethod
    def of(scope: Scope) -> "Parameters":
        """Count those of a scope."""
        origin = scope.params if scope.origin is None else scope.origin
        return Parameters(scope, sum(value.numel() for value in origin.values()))

    def needed(self, part: float) -> int:
        """How many have to be gone for a fraction of the whole, as many as meet it."""
        return math.ceil(part * self.whole - 1e-9)

    def lost(self, masks: Masks) -> int:
        """How many are gone, with the present model masked by these."""
        counts = masks.counts(self.scope.params)
        return self.whole - sum(there - removed for removed, there in counts.values())

    def refuse(self, rule: int, part: float, reached: int, name: str) -> NoReturn:
        """Refuse a budget of which only so many can go."""
        most = math.floor(reached / self.whole * 1e4) / 1e4
        found = f"rule {rule}: budget params {part:g} is {self.needed(part)} of the model's {self.whole} parameters"
        raise ConfigError(
            f"{found}, and {name} reaches {reached}", hint=f"ask for 0 to {most:g}, or select more layers"
        )


def refuses_beyond(name: str) -> Callable[[Scope, Config], None]:
    """What an allocation that masks single layers refuses before anything is scored: FLOPs, and more than there is.

    Whether a criterion of elements or of channels will be asked is not known then, so the wider of the two limits is
    taken; the other one is refused when the masks are made.

    Args:
        name: the allocation, for errors.
    """

    def refuses(scope: Scope, config: Config) -> None:
        rows = layer_rows(scope, config, name, budgets=True)
        budget = next(((row.rule, row.budget["params"]) for row in rows if row.budget is not None), None)
        if budget is None:
            return
        parameters = Parameters.of(scope)
        asked = sum(_most(row, scope) for row in rows)
        others = {row.layer.weight for row in rows} | {row.layer.bias for row in rows}
        elsewhere = parameters.lost(scope.masks) - _lost_of(scope, others)
        if (reached := min(parameters.whole, elsewhere + asked)) < parameters.needed(budget[1]):
            parameters.refuse(budget[0] or 0, budget[1], reached, name)

    return refuses


def _most(row: Row, scope: Scope) -> int:
    """How many parameters of a layer may go: as single elements, or as channels with their biases."""
    amounts = (row.sparsity, row.total, row.cap, 1.0)
    part = next(amount for amount in amounts if amount is not None)
    elements, units = scope.original_elements(row.layer), scope.original_units(row.layer)
    width = elements // units + (row.layer.bias is not None)
    return max(removals(part, elements), removals(part, units) * width)


def _lost_of(scope: Scope, names: set[str | None]) -> int:
    """How many parameters of some layers are gone."""
    origin = scope.params if scope.origin is None else scope.origin
    counts = scope.masks.counts(scope.params)
    there = sum(total - removed for name, (removed, total) in counts.items() if name in names)
    return sum(value.numel() for name, value in origin.items() if name in names) - there
