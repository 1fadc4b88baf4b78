"""How many go: exact counts in the coordinates of the original model, and what every selected layer brings to them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NoReturn, Protocol

import attrs
from torch import Tensor

from fprune.config import Config
from fprune.criteria import Criterion, Grain
from fprune.errors import ConfigError, ConfigTypeError
from fprune.layers import Layer, unit_mask
from fprune.masks import Masks
from fprune.plan import Row
from fprune.scope import Scope

__all__ = [
    "Allocation",
    "Share",
    "layer_rows",
    "local_rows",
    "masks_of",
    "refuse_over_bound",
    "refuses_budgets",
    "removals",
    "shares",
]


class Allocation(Protocol):
    """What turns scores and a config into masks: any function of these three arguments.

    The criterion scores, the config says which layers and how much, and the allocation decides how the amount spreads
    and what lives and dies together. `needs`, a frozenset, may say what it wants besides, such as `example_inputs`, and
    `refuses`, a function of a scope and a config, what it will not do, before a run begins.
    """

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config, /) -> Masks:
        """Return one bool mask for each selected weight, true where it is kept."""
        ...


def removals(sparsity: float, total: int) -> int:
    """Return how many of `total` a sparsity removes: `floor(sparsity * total + 1e-9)`, and never all.

    Examples:
        >>> removals(0.29, 100), removals(0.5, 5), removals(0.0, 5), removals(0.999, 1)
        (29, 2, 0, 0)

    Args:
        sparsity: fraction to remove, in `[0, 1)`.
        total: how many there are in the original model.

    Returns:
        The count, at most `total - 1`.
    """
    return max(0, min(math.floor(sparsity * total + 1e-9), total - 1))


@attrs.frozen(eq=False)
class Share:
    """One selected layer, its scores, and what is gone already.

    Args:
        row: the layer and its amount.
        scores: present scores; what masks removed has `-inf`.
        total: units or elements in the original model.
        gone: how many of them compactions removed.
        dead: how many of the present ones masks removed.
    """

    row: Row
    scores: Tensor
    total: int
    gone: int
    dead: int

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.row.layer.weight

    def present(self, removed: int) -> int:
        """Return how many present ones to mark so that `removed` of the original are gone; masks only shrink."""
        return max(removed - self.gone, self.dead)


def shares(criterion: Criterion, scope: Scope, rows: Iterable[Row], grain: Grain) -> Iterator[Share]:
    """Score the layers of some rows, one after the other.

    Args:
        criterion: what scores.
        scope: the parameters.
        rows: selected rows of a plan.
        grain: elements or channels.

    Yields:
        The share of each row.
    """
    by_name = {row.layer.weight: row for row in rows}
    for layer, scores in criterion.each(scope, [row.layer for row in by_name.values()], grain):
        total = scope.original_units(layer) if grain == "channel" else scope.original_elements(layer)
        dead = int((scores == -math.inf).count_nonzero()) if layer.weight in scope.masks else 0
        yield Share(by_name[layer.weight], scores, total, total - scores.numel(), dead)


def local_rows(scope: Scope, config: Config, allocation: str) -> tuple[Row, ...]:
    """Return the selected rows of a config whose rules hold for each layer by itself.

    Raises:
        ConfigError: a rule shares its amount over layers, or asks for more than a layer's bound.
    """
    rows = layer_rows(scope, config, allocation)
    for row in rows:
        if row.sparsity is None:
            found = f"rule {row.rule}: total_sparsity is shared over layers, and {allocation} treats each by itself"
            raise ConfigError(found, hint="use sparsity, or the allocation globally or dependency_aware")
        refuse_over_bound(row)
    return rows


def layer_rows(scope: Scope, config: Config, allocation: str, *, budgets: bool = False) -> tuple[Row, ...]:
    """Return the selected rows of a config whose rules speak of layers, not of units coupled over layers.

    Args:
        scope: the parameters.
        config: what to prune and how much.
        allocation: its name, for errors.
        budgets: whether the allocation can meet a budget of parameters.

    Raises:
        ConfigError: a rule has a key that only an allocation with units can follow.
    """
    rows = scope.plan(Config.of(config)).selected
    for row in rows:
        usual = Row(row.layer)
        keys = ("granularity", "round_to", "min_kept", "keep_class")
        told = [key for key in keys if getattr(row, key) != getattr(usual, key)]
        if told:
            found = f"rule {row.rule}: {told[0]} is about whole units, and {allocation} knows single layers only"
            raise ConfigError(found, hint=f"use dependency_aware, or leave out {told[0]}")
        if row.budget is not None and (not budgets or "flops" in row.budget):
            _refuse_budget(row, allocation, budgets)
    return rows


def _refuse_budget(row: Row, allocation: str, budgets: bool) -> NoReturn:
    if budgets:
        found = f"rule {row.rule}: a budget of FLOPs, and {allocation} masks layers one by one, which saves none"
        raise ConfigError(found, hint="use dependency_aware, which removes whole units; or a budget of params")
    found = f"rule {row.rule}: a budget is of the whole model, and {allocation} treats each layer by itself"
    raise ConfigError(found, hint="use dependency_aware, or globally for a budget of params")


def refuses_budgets(allocation: str) -> Callable[[Scope, Config], None]:
    """Return what an allocation that treats each layer by itself refuses before anything is scored: budgets."""

    def refuses(scope: Scope, config: Config) -> None:
        layer_rows(scope, config, allocation)

    return refuses


def refuse_over_bound(row: Row) -> None:
    """Refuse a layer whose own sparsity is more than its bound.

    Raises:
        ConfigError: it is.
    """
    if row.cap is not None and row.sparsity is not None and row.sparsity > row.cap:
        raise ConfigError(
            f"rule {row.rule}: sparsity {row.sparsity:g} of {row.layer.name!r} is more than its bound {row.cap:g}",
            hint="raise max_sparsity_per_layer, or give this layer a rule of its own",
        )


def natural(criterion: Criterion) -> Grain:
    """Return the grain of a criterion, and refuse what is not one."""
    if not isinstance(criterion, Criterion):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = getattr(criterion, "__name__", type(criterion).__name__)
        hint = (
            f"call it: {found}()"
            if callable(criterion)
            else "use channel_norm(p=1), or lift a function with @criterion"
        )
        raise ConfigTypeError(f"expected a criterion, got {found!r}", hint=hint)
    return criterion.natural


def masks_of(removed: Iterable[tuple[Layer, Tensor]], grain: Grain) -> Masks:
    """Return the masks that keep everything but what was marked.

    Elements are masked in the weight; a channel is masked in the weight, by a mask that broadcasts, and in the bias.

    Examples:
        >>> import torch
        >>> from fprune.layers import layers_of
        >>> params = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
        >>> marked = [(layer, torch.tensor([True, False])) for layer in layers_of(params)]
        >>> masks_of(marked, "channel")
        Masks(fc.bias=1/2 channels, fc.weight=1/2 channels)

    Args:
        removed: for each layer, bool: true where an element (the weight's shape) or a unit `(units,)` goes.
        grain: which of the two.

    Returns:
        One mask for each weight, and for its bias when channels go.
    """
    masks: dict[str, Tensor] = {}
    for layer, gone in removed:
        kept = ~gone
        masks[layer.weight] = kept if grain == "element" else unit_mask(kept, layer)
        if grain == "channel" and layer.bias is not None:
            masks[layer.bias] = kept
    return Masks(masks)
