"""What gets scores that are learned: elements, channels, or the units of a structure; and the masks scores give."""

from collections.abc import Mapping, Sequence
from typing import Protocol, final

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.allocate import Allocation
from fprune.allocate.axes import axes
from fprune.allocate.reach import outputs
from fprune.allocate.taking import Floats
from fprune.allocate.units import unit_masks
from fprune.compose.call import declared
from fprune.config import Config
from fprune.criteria import given
from fprune.layers import Layer, unit_mask, unit_view
from fprune.masks import Masks
from fprune.scope import Scope
from fprune.structure import Family, Structure, masked_units

__all__ = ["Gated", "gates_of"]


class Gated(Protocol):
    """What is scored: elements, channels, or the units of a structure."""

    @property
    def scope(self) -> Scope:
        """The parameters, with the masks of everything else."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that get scores."""
        ...

    def sums(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores of what lives and dies together; gradients go through."""
        ...

    def hard(self, scores: Mapping[str, Tensor], config: Config) -> Masks:
        """The masks that an allocation gives for a config."""
        ...

    def soft(self, scores: Mapping[str, Tensor], tau: float) -> Masks:
        """The masks that keep what has sigmoid(score) > tau."""
        ...


@final
@attrs.frozen(eq=False)
class Elements:
    """Every weight by itself."""

    scope: Scope
    layers: tuple[Layer, ...]
    allocation: Allocation

    @property
    def names(self) -> tuple[str, ...]:
        """The selected weights."""
        return tuple(layer.weight for layer in self.layers)

    def sums(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores as they are."""
        return dict(scores)

    def hard(self, scores: Mapping[str, Tensor], config: Config) -> Masks:
        """The lowest scores go."""
        return self.allocation(given(scores, "element"), self.scope, config)

    def soft(self, scores: Mapping[str, Tensor], tau: float) -> Masks:
        """A threshold on each score."""
        return Masks({name: score.detach().sigmoid() > tau for name, score in scores.items()})


@final
@attrs.frozen(eq=False)
class Channels:
    """Output channels with their bias."""

    scope: Scope
    layers: tuple[Layer, ...]
    allocation: Allocation

    @property
    def names(self) -> tuple[str, ...]:
        """The selected weights and their biases."""
        both = [name for layer in self.layers for name in (layer.weight, layer.bias) if name is not None]
        return tuple(dict.fromkeys(both))

    def sums(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over each channel's weights and its bias."""
        return {layer.weight: _of_channels(scores, layer) for layer in self.layers}

    def hard(self, scores: Mapping[str, Tensor], config: Config) -> Masks:
        """The channels with the lowest sums go."""
        return self.allocation(given(_detached(self.sums(scores)), "channel"), self.scope, config)

    def soft(self, scores: Mapping[str, Tensor], tau: float) -> Masks:
        """A threshold on each sum."""
        masks: dict[str, Tensor] = {}
        for layer in self.layers:
            kept = _of_channels(scores, layer).detach().sigmoid() > tau
            masks[layer.weight] = unit_mask(kept, layer)
            if layer.bias is not None:
                masks[layer.bias] = kept
        return Masks(masks)


def _of_channels(scores: Mapping[str, Tensor], layer: Layer) -> Tensor:
    rows = unit_view(scores[layer.weight], layer).sum(1)
    return rows if layer.bias is None else rows + scores[layer.bias]


@final
@attrs.frozen(eq=False)
class Units:
    """The units of a structure: heads, coupled channels, whatever the rules name; with all their slices."""

    scope: Scope
    layers: tuple[Layer, ...]
    allocation: Allocation
    structure: Structure
    families: tuple[Family, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter that a unit reaches."""
        reached = [name for family in self.families for name in family.parameters if name in self.scope]
        return tuple(dict.fromkeys(reached))

    def sums(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over each unit's slices, by family name."""
        return {family.name: _of_units(scores, family) for family in self.families}

    def hard(self, scores: Mapping[str, Tensor], config: Config) -> Masks:
        """The units with the lowest sums go; the allocation is shown their ranks, which have a sign and a scale."""
        ranks = self._ranks(_detached(self.sums(scores)))
        shown = {layer.weight: self._shown(ranks, layer) for layer in self.scope.layers if layer.shape}
        return self.allocation(given(shown, "channel"), self.scope, config)

    def soft(self, scores: Mapping[str, Tensor], tau: float) -> Masks:
        """A threshold on each sum."""
        removed = torch.zeros(self.structure.labels, dtype=torch.bool)
        for family in self.families:
            low = _of_units(scores, family).detach().sigmoid() <= tau
            removed[torch.from_numpy(family.labels)] = low.cpu()
        return unit_masks(self.structure, removed.numpy(), self.scope)

    def _ranks(self, sums: Mapping[str, Tensor]) -> Floats:
        """A positive number for each label, in the order of the sums and equal where they are."""
        together = np.concatenate([sums[family.name].double().numpy(force=True) for family in self.families])
        place = np.unique(together, return_inverse=True)[1] + 1
        ranks = np.zeros(self.structure.labels)
        ranks[np.concatenate([family.labels for family in self.families])] = place / len(together)
        return ranks

    def _shown(self, ranks: Floats, layer: Layer) -> Tensor:
        shown = ranks[outputs(self.structure, layer)].sum(1)
        return torch.from_numpy(shown).to(self.scope[layer.weight].device)


def _of_units(scores: Mapping[str, Tensor], family: Family) -> Tensor:
    def of_slice(score: Tensor, dim: int, index: Tensor) -> Tensor:
        return score.movedim(dim, 0).reshape(score.shape[dim], -1).sum(1)[index].sum(1)

    parts = [
        of_slice(scores[part.tensor], part.dim, torch.from_numpy(part.index))
        for part in family.slices
        if part.tensor in scores
    ]
    return torch.stack(parts).sum(0)


def _detached(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: score.detach() for name, score in scores.items()}


def gates_of(scope: Scope, config: Config, allocation: Allocation, granularity: str) -> Gated:
    """What a config prunes under an allocation that starts anew: inherited masks of it are forgotten.

    Args:
        scope: the parameters, with the structure when the allocation wants it.
        config: what to prune.
        allocation: how the budget spreads; one that needs the structure prunes units.
        granularity: of other allocations, `"element"` or `"channel"`.
    """
    plan = scope.plan(config)
    layers = tuple(row.layer for row in plan.selected)
    structure = scope.structure if "structure" in declared(allocation, "needs") else None
    if not isinstance(structure, Structure):
        made = (Elements if granularity == "element" else Channels)(scope, layers, allocation)
        return attrs.evolve(made, scope=attrs.evolve(scope, masks=scope.masks.without(made.names)))
    families = tuple(axis.family for axis in axes(structure, plan))
    units = Units(scope, layers, allocation, structure, families)
    return attrs.evolve(units, scope=attrs.evolve(scope, masks=_others(scope, structure, families)))


def _others(scope: Scope, structure: Structure, families: Sequence[Family]) -> Masks:
    """The inherited masks without those of whole units of some families."""
    gone = masked_units(structure, scope.masks, {name: tuple(value.shape) for name, value in scope.items()})
    ours = np.isin(np.arange(structure.labels), np.concatenate([family.labels for family in families]))
    back = unit_masks(structure, gone & ours, scope)
    rest = {name: mask | ~back[name] if name in back else mask for name, mask in scope.masks.items()}
    return Masks(rest)
