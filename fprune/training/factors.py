"""Scaling factors: which affine weight of a norm follows which layer, and factors that are learned where none does."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fprune.allocate.reach import outputs
from fprune.layers import Layer, unit_values
from fprune.masks import Masks
from fprune.model import Model
from fprune.structure import Structure
from fprune.training.back import taken_back
from fprune.training.functional import loss_with
from fprune.training.hold import zero_after_steps, zero_pruned
from fprune.training.loop import Loss, MakeOptimizer, adam, fit, trainable

__all__ = ["Factor", "by_label", "following", "learned"]

Ints = NDArray[np.int64]
_NORMS = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})


@attrs.frozen(eq=False)
class Factor:
    """The scaling factors of a layer's output channels.

    Args:
        weight: name of the parameter that holds them.
        index: int64, `(units,)`: the entry that scales each output channel.
    """

    weight: str
    index: Tensor


def following(structure: Structure, layer: Layer) -> Factor | None:
    """The affine weight of the first norm that a layer's outputs reach, before they reach another layer.

    Labels say which of the norm's entries scale which of the layer's channels.

    Examples:
        >>> from torch import nn
        >>> from fprune import inputs
        >>> from fprune.structure import trace
        >>> model = Model.from_module(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
        >>> structure = trace(model, inputs(torch.ones(1, 1, 4, 4)))
        >>> following(structure, model.layers[0])
        Factor(weight='1.weight', index=tensor([0, 1]))

    Args:
        structure: the trace of the model.
        layer: one of its layers.

    Returns:
        The factors, or None where there is no such norm.
    """
    graph, rows = structure.graph, outputs(structure, layer)
    reached: set[int] = set()
    for node in graph.nodes:  # in the order of the program, so the nearest norm comes first
        read = [graph.tensors[value] for value in node.inputs if value in graph.tensors]
        if layer.weight in read:
            reached.update(node.outs)
        elif reached.isdisjoint(node.inputs):
            continue
        elif node.name in _NORMS:
            index = _positions(structure, node.bound.get("weight"), rows)
            if index is not None:
                return Factor(graph.tensors[node.bound["weight"].index], index)
        elif all(len(graph.shapes[value]) < 2 for value in node.inputs if value in graph.tensors):
            reached.update(node.outs)
    return None


def _positions(structure: Structure, weight: Any, rows: Ints) -> Tensor | None:
    """For each output channel the entry of a norm's weight with the same labels."""
    if weight is None or weight.index not in structure.graph.tensors:
        return None
    there = structure.rows[weight.index][0]
    if np.array_equal(there, rows):
        return torch.arange(len(rows))
    places = {tuple(row): place for place, row in enumerate(there.tolist())}
    found = [places.get(tuple(row), -1) for row in rows.tolist()]
    return torch.tensor(found) if len(places) == len(there) and min(found, default=-1) >= 0 else None


def by_label(structure: Structure, scores: Mapping[str, Tensor], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Give every layer scores: its own, or the mean of what the same units score elsewhere; 0 where nothing says more.

    Args:
        structure: says which channels are the same units.
        scores: weight name -> `(units,)`, of some layers.
        layers: all layers.

    Returns:
        Weight name -> `(units,)`, of all layers.
    """
    total, count = np.zeros(structure.labels), np.zeros(structure.labels)
    rows = {layer.weight: outputs(structure, layer) for layer in layers if layer.shape}
    for name, values in scores.items():
        for column in rows[name].T:
            np.add.at(total, column, values.double().cpu().numpy())
            np.add.at(count, column, 1)
    mean = total / np.maximum(count, 1)
    device = next(iter(scores.values())).device
    others = {name: torch.from_numpy(mean[labels].mean(1)).float().to(device) for name, labels in rows.items()}
    return {**others, **scores}


def learned(
    who: str,
    model: Model,
    masks: Masks,
    layers: Sequence[Layer],
    loss: Loss,
    batches: Any,
    *,
    epochs: int,
    scale: float,
    optimizer: MakeOptimizer | None,
) -> tuple[Model, dict[str, Tensor], dict[str, float]]:
    """Train a factor for each output channel together with the model, and fold it into the weights.

    W <- g * W and b <- g * b with g = 1 at the start, trained with loss + scale * sum of |g|.

    Args:
        who: the pruner, for messages.
        model: the model.
        masks: what is held at zero.
        layers: what gets factors.
        loss: `loss(module, batch)`.
        batches: what can be read again and again.
        epochs: how often.
        scale: the weight of the penalty.
        optimizer: makes the optimizer.

    Returns:
        The trained model with its factors folded, |g| by weight name, and metrics.
    """
    module = model.to_module()
    zero_pruned(module, masks)
    module.train()
    params = dict(module.named_parameters(remove_duplicate=False))
    gates = {
        layer.weight: torch.ones(
            layer.units, dtype=params[layer.weight].dtype, device=params[layer.weight].device, requires_grad=True
        )
        for layer in layers
    }

    def scaled() -> dict[str, Tensor]:
        weights = {n.weight: params[n.weight] * unit_values(gates[n.weight], n) for n in layers}
        biases = {n.bias: params[n.bias] * gates[n.weight] for n in layers if n.bias is not None}
        return {**weights, **biases}

    def value(batch: Any) -> tuple[Tensor, Tensor]:
        penalty = torch.stack([gate.abs().sum() for gate in gates.values()]).sum()
        return loss_with(module, scaled(), loss, batch), scale * penalty

    steps = (adam if optimizer is None else optimizer)([*trainable(module, who), *gates.values()])
    with zero_after_steps(module, masks):
        metrics = fit(who, batches, value, [steps], epochs)
    with torch.no_grad():
        for name, folded in scaled().items():
            params[name].copy_(folded)
    return taken_back(model, module, masks), {name: gate.detach().abs() for name, gate in gates.items()}, metrics
