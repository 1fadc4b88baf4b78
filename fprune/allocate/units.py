"""Scores of whole units, and the masks of those that go: what allocations that follow the couplings share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.allocate.axes import Axis, outputs
from fprune.allocate.taking import Bools, Floats, Ints
from fprune.criteria import Criterion
from fprune.errors import ConfigError, StructureError
from fprune.masks import Masks
from fprune.scope import Scope
from fprune.structure import Structure, trace

__all__ = ["Normalisation", "Reduction", "Scoring", "structure_of", "unit_masks"]

Reduction: TypeAlias = Literal["mean", "sum", "max", "first"]
Normalisation: TypeAlias = Literal["mean", "max", "none"]

_REDUCE: Mapping[str, Callable[[Floats, Floats, Ints], Floats]] = {
    "mean": lambda total, score, before: total + score,  # divided by how many there are at the end
    "sum": lambda total, score, before: total + score,
    "max": lambda total, score, before: np.where(before, np.maximum(total, score), score),
    "first": lambda total, score, before: np.where(before, total, score),
}
"""The score so far, that of one more layer, and how many layers came before it -> the score."""

_SCALE: Mapping[str, Callable[[Floats], float]] = {
    "mean": lambda alive: float(np.abs(alive).mean()),  # scores with a sign keep their order
    "max": lambda alive: float(np.abs(alive).max()),
    "none": lambda alive: 1.0,
}


def _one_of(known: Sequence[str]) -> Callable[[object, "attrs.Attribute[Any]", Any], None]:
    def check(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if value not in known:
            told = ", ".join(map(repr, known))
            found = f"{attribute.name}: expected one of {told}, got {value!r}"
            raise ConfigError(found, hint=f"dependency_aware({attribute.name}={known[0]!r}) is the usual")

    return check


@attrs.frozen
class Scoring:
    """How the scores of channels become the score of a unit that owns channels of several layers.

    Examples:
        >>> Scoring()
        Scoring(reduction='mean', normalisation='mean')
        >>> Scoring(reduction="max").options
        "(reduction='max')"

    Args:
        reduction: over the layers of a unit: `"mean"`, `"sum"`, `"max"`, or the `"first"` layer in the model's order.
        normalisation: what a layer's scores are divided by: the `"mean"` or the `"max"` of its channels' scores without
            their sign, or `"none"`.
    """

    reduction: Reduction = attrs.field(default="mean", validator=_one_of(get_args(Reduction)))
    normalisation: Normalisation = attrs.field(default="mean", validator=_one_of(get_args(Normalisation)))

    @property
    def options(self) -> str:
        """The options that differ from the usual ones, as they are written; empty when none does."""
        given = {"reduction": self.reduction, "normalisation": self.normalisation}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != "mean")
        return f"({told})" if told else ""

    def __call__(self, criterion: Criterion, scope: Scope, structure: Structure, found: Sequence[Axis]) -> Floats:
        """A score for each label.

        Args:
            criterion: asked for one score per output channel of every layer that owns channels of a unit.
            scope: the parameters.
            structure: the couplings.
            found: the families that may lose units.

        Returns:
            `(labels,)`; 0 for labels that no layer scores.
        """
        asked = np.zeros(structure.labels, np.bool_)
        for axis in found:
            asked[axis.family.labels] = True
        rows = {layer.weight: outputs(structure, layer) for layer in scope.layers if layer.shape}
        layers = [layer for layer in scope.layers if layer.weight in rows and asked[rows[layer.weight]].any()]
        layers = [layer for layer in layers if len(layer.shape) > 1] or layers
        scores, count = np.zeros(structure.labels), np.zeros(structure.labels, np.int64)
        for layer, channels in criterion.each(scope, layers, "channel"):
            own, owns = self._of_layer(channels, rows[layer.weight], structure.labels)
            scores = np.where(owns, _REDUCE[self.reduction](scores, own, count), scores)
            count += owns
        return scores / np.maximum(count, 1) if self.reduction == "mean" else scores

    def _of_layer(self, channels: Tensor, rows: Ints, labels: int) -> tuple[Floats, Bools]:
        """What one layer says of each label: the sum over its channels that the label owns; and which it owns."""
        score = channels.double().cpu().numpy()
        alive = np.isfinite(score)
        scale = _SCALE[self.normalisation](score[alive]) if alive.any() else 1.0
        score = np.where(alive, score, 0.0) / (scale or 1.0)
        own, owns = np.zeros(labels), np.zeros(labels, np.bool_)
        for column in rows.T:
            np.add.at(own, column, score)
        owns[rows] = True
        return own, owns


def structure_of(scope: Scope, name: str) -> Structure:
    """The structure of the model in a scope, traced now unless it is known.

    Raises:
        StructureError: there is no model, or nothing to trace it with.
    """
    if isinstance(scope.structure, Structure):
        return scope.structure
    if scope.model is None or scope.example_inputs is None:
        raise StructureError(
            f"{name} needs the structure of a model, found only tensors",
            hint=f"l1({name}).masks(Model.from_module(net), config, example_inputs=(x,))",
        )
    return trace(scope.model, scope.example_inputs)


def unit_masks(structure: Structure, removed: Bools, scope: Scope) -> Masks:
    """Every slice of every removed unit, one mask for each parameter.

    Args:
        structure: the couplings.
        removed: which labels are gone.
        scope: the parameters.

    Returns:
        Masks that broadcast along dimensions in which nothing goes.
    """
    gone: dict[tuple[str, int], Bools] = {}
    for family in structure.families:
        units = removed[family.labels]
        if units.any():
            for part in family.slices:
                if part.tensor in scope:
                    size = scope[part.tensor].shape[part.dim]
                    gone.setdefault((part.tensor, part.dim), np.zeros(size, np.bool_))[part.index[units]] = True
    masks: dict[str, Tensor] = {}
    for (name, dim), indices in gone.items():
        place = [-1 if d == dim else 1 for d in range(scope[name].ndim)]
        kept = torch.from_numpy(~indices).to(scope[name].device).view(place)
        masks[name] = masks[name] & kept if name in masks else kept
    return Masks(masks)
