"""Scores from first derivatives: how much the loss would change without a weight, to first order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fprune.criteria.batches import Batches, Loss, check_scores, differentiated, running, summed
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.derivatives import gradients, wide
from fprune.criteria.precision import wide_dtype
from fprune.layers import Layer, unit_view
from fprune.scope import Scope

__all__ = ["sensitivity", "squared_change"]

_BLOCK = 1 << 16  # products that are in memory at a time: they stay in the cache


@criterion(grain="any", reads="scope", check=check_scores)
def squared_change(
    scope: Scope,
    layers: Sequence[Layer],
    grain: Grain,
    loss: Loss,
    batches: Batches,
    *,
    training: bool = False,
    joint: bool = False,
) -> dict[str, Tensor]:
    """Score by the squared change of the loss, to first order, when a weight is set to 0.

    score(i) = sum over batches of (g_i w_i)^2, where g is the gradient of the loss on the batch; a channel's score is
    the sum over its weights. With `joint`, the changes of a channel's weights are added before they are squared:
    sum over batches of (sum over the channel of g_i w_i)^2.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False)).replace({"weight": torch.ones(1, 2)})
        >>> scores = squared_change(lambda model, x: model(x).sum(), [torch.tensor([[3.0, -4.0]])])
        >>> scores(model, model.layers, grain="element")["weight"]
        tensor([[ 9., 16.]])
        >>> scores(model, model.layers, grain="channel")["weight"]
        tensor([25.], dtype=torch.float64)

    Args:
        scope: brings the model; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements or channels; filled in by the allocation.
        loss: `loss(model, batch)`, one number.
        batches: a re-iterable of batches.
        training: whether the model runs in training mode.
        joint: whether the weights of a channel count together.

    Returns:
        Weight name -> scores.

    References:
        Molchanov et al, `Importance Estimation for Neural Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019
    """

    def squares(layer: Layer, gradient: Tensor, weight: Tensor) -> Tensor:
        if grain == "element":
            return (gradient * weight).square_()
        return _of_channels(unit_view(gradient, layer), unit_view(weight, layer), joint)

    with running(scope, "taylor", training) as model:
        weights = differentiated(model, layers)
        gradient = gradients(model, loss, weights)

        def terms(batch: object, where: str) -> dict[str, Tensor]:
            found = gradient(batch, where)
            named = ((layer, layer.weight) for layer in layers)
            return {name: squares(layer, found.pop(name), wide(weights[name])) for layer, name in named}

        return summed(batches, "taylor", terms)


def _of_channels(gradients: Tensor, weights: Tensor, joint: bool) -> Tensor:
    """Sums over the rows of squared products, or squared sums of products, some rows at a time on the CPU."""
    step = max(1, _BLOCK // max(1, weights.shape[1])) if weights.device.type == "cpu" else max(1, len(weights))
    parts: list[Tensor] = []
    for some, same in zip(torch.split(gradients, step), torch.split(weights, step), strict=True):
        change = some * same
        terms = change if joint else change.square_()
        total = terms.sum(dim=1, dtype=wide_dtype(terms))
        parts.append(total.square_() if joint else total)
    return torch.cat(parts)


@criterion(grain="element", reads="scope", check=check_scores)
def sensitivity(
    scope: Scope, layers: Sequence[Layer], grain: Grain, loss: Loss, batches: Batches, *, training: bool = False
) -> dict[str, Tensor]:
    """Score a weight by how strongly the loss reacts to a gate on it.

    score(i) = |g_i w_i|, where g is the gradient of the loss summed over the batches: the derivative of the loss with
    respect to a factor before the weight, at 1.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False)).replace({"weight": torch.ones(1, 2)})
        >>> sensitivity(lambda model, x: model(x).sum(), [torch.tensor([[3.0, -4.0]])])(model, model.layers)["weight"]
        tensor([[3., 4.]])

    Args:
        scope: brings the model; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements; filled in by the allocation.
        loss: `loss(model, batch)`, one number.
        batches: a re-iterable of batches.
        training: whether the model runs in training mode.

    Returns:
        Weight name -> scores.

    References:
        Lee et al, `SNIP <https://arxiv.org/abs/1810.02340>`_, 2019
    """
    with running(scope, "snip", training) as model:
        weights = differentiated(model, layers)
        gradient = gradients(model, loss, weights)

        def changes(batch: object, where: str) -> dict[str, Tensor]:
            found = gradient(batch, where)
            return {name: found[name] * wide(weight) for name, weight in weights.items()}

        return {name: total.abs_() for name, total in summed(batches, "snip", changes).items()}
