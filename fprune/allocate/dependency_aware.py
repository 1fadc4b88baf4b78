"""Whole units: everything that the model's couplings tie together goes or stays together."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fprune.allocate.axes import Axis, axes, outputs, staying
from fprune.allocate.budget import refuse_over_bound
from fprune.allocate.keeping import keep_class
from fprune.allocate.needing import needing
from fprune.allocate.taking import Bools, Floats, take_each, take_shared
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.errors import StructureError
from fprune.masks import Masks
from fprune.scope import Scope
from fprune.structure import Structure, masked_units, trace

__all__ = ["dependency_aware", "unit_masks"]


@needing("example_inputs", "structure", foresees=staying)
def dependency_aware(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Remove whole units: a filter with its bias, the norm's entries, the filters added to it, the weights reading it.

    The units come from the structure of the model. A unit's score is the mean over the weights whose output channels it
    owns of `score of those channels / mean absolute score of the weight's channels`, so that a large kernel does not
    decide for the layers it is added to. Of each family of units `floor(s * n)` go, n counted before any compaction; of
    a layer whose channels fall into several families `floor(s * n)` go in total, and each family keeps one unit. With
    `total_sparsity` the units of the rule compete, and their channels in the rule's layers are counted.

    Where a layer is made of attention heads, heads go and their width stays; a rule's `granularity` says otherwise.
    With `round_to=r` the count that is kept goes up to the next multiple of r, so that no more is lost than asked for;
    a family that has no multiple left loses nothing. `min_kept` bounds the count of every family from below.
    With `keep_class` units come back where the model's code ties sizes together, such as `width // num_heads`.

    A layer that the rules exclude keeps its channels and everything coupled to them. A layer that no rule selects
    follows the layers it is coupled to.

    Examples:
        >>> from fprune import Config, Model, inputs
        >>> from fprune.criteria import channel_norm
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> model = Model.from_module(net).replace({"0.weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]])})
        >>> scope = Scope.of(model, example_inputs=inputs(torch.ones(1, 2)))
        >>> masks = dependency_aware(channel_norm(p=1), scope, Config([{"op_names": ["0"], "sparsity": 0.5}]))
        >>> masks["0.weight"].tolist(), masks["2.weight"].tolist()
        ([[False], [True]], [[False, True]])

    Args:
        criterion: what scores; asked for one score per output channel.
        params: a `Model` in a `Scope` with example inputs or a structure, as `l1(dependency_aware).masks(...)` makes
            it.
        config: what to prune and how much.

    Returns:
        One bool mask for each parameter that a removed unit reaches.

    Raises:
        ConfigError: coupled layers ask for different amounts, a named layer cannot lose channels, or nothing can; a
            granularity names nothing; a family cannot be kept in multiples of `round_to`.
        StructureError: the structure is not that of a model.
    """
    scope, config = Scope.of(params), Config.of(config)
    structure, plan = _structure(scope), scope.plan(config)
    for row in plan.selected:
        refuse_over_bound(row)
    found = axes(structure, plan)
    removed = masked_units(structure, scope.masks, {name: tuple(value.shape) for name, value in scope.items()})
    scores = _scores(criterion, scope, structure, found)
    scores[removed] = -np.inf
    before = removed.copy()
    take_each(structure, [axis for axis in found if axis.sparsity is not None], plan.selected, scope, scores, removed)
    for rule in sorted({axis.rule for axis in found if axis.sparsity is None}):
        rows = [row for row in plan.selected if row.rule == rule]
        take_shared([a for a in found if a.sparsity is None and a.rule == rule], rows, scope, scores, removed)
    if any(axis.keep_class for axis in found):
        keep_class(structure, found, before, removed, scores)
    return unit_masks(structure, removed, scope)


def _structure(scope: Scope) -> Structure:
    if isinstance(scope.structure, Structure):
        return scope.structure
    if scope.model is None or scope.example_inputs is None:
        raise StructureError(
            "dependency_aware needs the structure of a model, found only tensors",
            hint="l1(dependency_aware).masks(Model.from_module(net), config, example_inputs=(x,))",
        )
    return trace(scope.model, scope.example_inputs)


def _scores(criterion: Criterion, scope: Scope, structure: Structure, found: Sequence[Axis]) -> Floats:
    """A score for each label: the mean over weights of (its channels' score / the weight's mean absolute score)."""
    asked = np.zeros(structure.labels, np.bool_)
    for axis in found:
        asked[axis.family.labels] = True
    rows = {layer.weight: outputs(structure, layer) for layer in scope.layers if layer.shape}
    layers = [layer for layer in scope.layers if layer.weight in rows and asked[rows[layer.weight]].any()]
    layers = [layer for layer in layers if len(layer.shape) > 1] or layers
    total, count = np.zeros(structure.labels), np.zeros(structure.labels)
    for layer, found_scores in criterion.each(scope, layers, "channel"):
        score = found_scores.double().cpu().numpy()
        alive = np.isfinite(score)
        mean = np.abs(score[alive]).mean() if alive.any() else 1.0  # scores with a sign keep their order
        score = np.where(alive, score, 0.0) / (mean or 1.0)
        labels = rows[layer.weight]
        for column in labels.T:
            np.add.at(total, column, score)
        count[labels.ravel()] += 1  # once for each label, however often it occurs
    return total / np.maximum(count, 1)


def unit_masks(structure: Structure, removed: Bools, scope: Scope) -> Masks:
    """Every slice of every removed unit, one mask per parameter.

    Args:
        structure: the couplings.
        removed: `(labels,)`, which units go.
        scope: the parameters.
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
