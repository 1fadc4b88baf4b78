"""Scores from what comes out of a layer: how often a channel is not zero, and how large it is."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fprune.criteria.batches import Batches, check_data, each, running, told
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.points import Activation, Points, check_activation, structure_of
from fprune.criteria.precision import wide_dtype
from fprune.errors import ConfigError, ScoreError
from fprune.layers import Layer
from fprune.model import Model
from fprune.scope import Scope
from fprune.structure.listen import listening
from fprune.structure.uses import Place, unit_dim

__all__ = ["Forward", "activity"]

Forward: TypeAlias = Callable[[Model, Any], Any]
"""`forward(model, batch)`: runs the model on a batch; what it returns is not looked at."""

_MEASURES: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "nonzero": ("apoz", lambda a: a != 0),
    "size": ("mean_activation", lambda a: a.abs()),
}
"""The pruner that averages it, and what of each activation."""


def _check(forward: object, batches: object, measure: str, activation: object, training: bool) -> None:
    del training
    if measure not in _MEASURES:
        raise ConfigError(f"measure: expected one of {', '.join(map(repr, _MEASURES))}, got {measure!r}")
    check_data(_MEASURES[measure][0], forward, batches, "forward")
    check_activation(activation)


@criterion(grain="channel", reads="scope", check=_check)
def activity(
    scope: Scope,
    layers: Sequence[Layer],
    grain: Grain,
    forward: Forward,
    batches: Batches,
    measure: Literal["nonzero", "size"] = "size",
    activation: Activation = None,
    training: bool = False,
) -> dict[str, Tensor]:
    """Score an output channel by what comes out of it on data.

    score(c) = mean over samples and positions of `a_c != 0` ("nonzero"), or of `|a_c|` ("size"), summed in float64.

    A layer that is used several times is measured at every use. A unit of an embedding, which is a row and no channel,
    is measured at the positions that look it up, and is 0 at all others.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(2, 2, bias=False)).replace({"weight": torch.eye(2)})
        >>> batches = [torch.tensor([[1.0, -4.0]]), torch.tensor([[2.0, 3.0]])]
        >>> activity(lambda model, x: model(x), batches, activation="relu")(model, model.layers)
        {'weight': tensor([1.5000, 1.5000])}
        >>> activity(lambda model, x: model(x), batches, "nonzero", activation="relu")(model, model.layers)
        {'weight': tensor([1.0000, 0.5000])}

    Args:
        scope: brings the model; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: channels; filled in by the allocation.
        forward: `forward(model, batch)` runs the model, without gradients; what it returns is not looked at.
        batches: handed to `forward` one after the other, untouched; a list or a DataLoader.
        measure: what is averaged.
        activation: where. None: after the first activation function behind the layer, through norms and pointwise
            operators, as the structure shows it; after the layer itself where another value joins before. Else a
            function that is applied to the layer's output: `"relu"`, `"relu6"`, `"gelu"`, or any callable.
        training: run in training mode, BatchNorm with each batch's statistics; else in evaluation mode.

    Returns:
        Weight name -> scores, `(units,)`.

    Raises:
        CompositionError: there is no model to run, or no structure to find its activation functions in.
        ScoreError: the forward passes never reach a layer, or a value is not finite.

    References:
        Hu et al, `Network Trimming <https://arxiv.org/abs/1607.03250>`_, 2016 (non-zeros);
        Molchanov et al, `Pruning Convolutional Neural Networks <https://arxiv.org/abs/1611.06440>`_, 2017 (means)
    """
    who, of_each = _MEASURES[measure]
    listed = {layer.weight: layer for layer in layers}
    sums = {name: scope[name].new_zeros(layer.units, dtype=wide_dtype(scope[name])) for name, layer in listed.items()}
    counts, missed = Counter[str](), dict[str, str]()
    with running(scope, who, training) as model:
        structure = structure_of(scope, who, "activation='relu'") if activation is None else None
        points = Points(model, structure, activation, training)
        for where, batch in each(batches, who):
            seen = Counter[str]()

            def hear(name: str, place: Place, out: Tensor, bound: Mapping[str, Any], seen: Counter[str] = seen) -> None:
                value = points.at(name, seen[name], out)
                seen[name] += 1
                if not value.sum(dtype=wide_dtype(value)).isfinite():
                    raise ScoreError(f"what comes out of {name!r} is not finite", hint="look for broken data")
                parts, count = _summed(of_each(value), listed[name], place, bound)
                sums[name] += parts.to(sums[name].device)
                counts[name] += count

            with told(where), listening(model, list(listed), hear, missed.setdefault):
                forward(model, batch)
            points.check(seen, where)
    for name, layer in listed.items():
        if not counts[name]:
            raise _unreached(who, layer, missed.get(name))
    return {name: (total / counts[name]).to(_like(scope[name])) for name, total in sums.items()}


def _summed(value: Tensor, layer: Layer, place: Place, bound: Mapping[str, Any]) -> tuple[Tensor, int]:
    """The sum over samples and positions for each unit, and how many terms it has."""
    wide = wide_dtype(value)
    if place == "rows":
        rows: Tensor = bound["indices"].flatten()
        at = value.reshape(len(rows), -1).sum(1, dtype=wide)
        return at.new_zeros(layer.units).index_add_(0, rows, at), value.numel()
    dim = unit_dim(place, len(layer.shape), value.ndim)
    if layer.units == 1:  # one number for all channels, as in PReLU
        return value.sum(dtype=wide).reshape(1), value.numel()
    return value.movedim(dim, 0).flatten(1).sum(1, dtype=wide), value.numel() // layer.units


def _like(weight: Tensor) -> Tensor:
    """A tensor with the device and the precision that scores of a weight have."""
    return weight.new_empty(0, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)


def _unreached(who: str, layer: Layer, operator: str | None) -> ScoreError:
    if operator is None:
        found = f"{who}: the forward passes never use {layer.weight!r}"
        hint = f"call the model that forward is given; exclude {layer.name!r}, or pass batches that reach it"
        return ScoreError(found, hint=hint)
    found = f"{who}: {layer.weight!r} is read by {operator}, of whose output no dimension is known to be its channels"
    return ScoreError(found, hint=f"exclude {layer.name!r}, or prune it by its weights")
