"""Scores from the gradients of single samples: the diagonal of the empirical Fisher matrix."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fprune.criteria.batches import (
    Batches,
    Loss,
    added,
    check_data,
    differentiated,
    each,
    finite,
    losses,
    running,
    told,
)
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.derivatives import Weights, gradients, plain_attention, wide
from fprune.criteria.linear import Tapping, single_rows
from fprune.criteria.samples import Rebuild, taken_apart
from fprune.layers import Layer
from fprune.model import Model
from fprune.scope import Scope

__all__ = ["fisher_diagonal"]

_Squares: TypeAlias = Callable[[Sequence[Tensor], Rebuild, str], Iterator[Weights]]
_AT_A_TIME = 1 << 24  # elements of per-sample gradients that are in memory together


def _check(loss: object, batches: object, training: bool) -> None:
    check_data("the criterion", loss, batches)


@criterion(grain="element", reads="scope", check=_check)
def fisher_diagonal(
    scope: Scope, layers: Sequence[Layer], grain: Grain, loss: Loss, batches: Batches, *, training: bool = False
) -> dict[str, Tensor]:
    """Score a weight by the empirical Fisher information, which stands for the curvature of a log-likelihood.

    score(i) = 1/2 F_i w_i^2 with F_i = 1/N * sum over samples n of g_ni^2, where g_n is the gradient of the loss of
    sample n alone.

    A sample's loss is `loss(model, batch)` for a batch of this one sample, so it does not matter whether the loss is a
    mean or a sum over the batch. The first dimension of every tensor in a batch counts the samples. What ties samples
    together, such as batch statistics or contrastive losses, has no meaning here.

    The gradient of a linear layer that a sample passes once is an outer product of its input a and the gradient d of
    its output, so the sum of squares over the samples is one matrix product, `(D * D)^T (A * A)`. Other weights get
    per-sample gradients by `vmap`, a few samples at a time; models that `vmap` cannot go through, sample by sample.

    Examples:
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False)).replace({"weight": torch.ones(1, 2)})
        >>> scores = fisher_diagonal(lambda model, x: model(x).mean(), [torch.tensor([[2.0, 0.0], [4.0, 2.0]])])
        >>> scores(model, model.layers)["weight"]
        tensor([[5., 1.]])

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
        Theis et al, `Faster gaze prediction with dense networks and Fisher pruning
        <https://arxiv.org/abs/1801.05787>`_, 2018
    """
    count, total = 0, dict[str, Tensor]()
    with running(scope, "fisher", training) as model, plain_attention():
        weights = differentiated(model, layers)
        model = model.replace(weights)
        squares: _Squares | None = None
        for where, batch in each(batches, "fisher"):
            rows, rebuild = taken_apart(batch, where)
            if squares is None:
                squares = _way(model, loss, weights, rows, rebuild, where)
            for terms in squares(rows, rebuild, where):
                total = added(total, terms)
            count += len(rows[0])
        return {name: total[name].mul_(0.5 / count) * wide(weight).square() for name, weight in weights.items()}


def _way(model: Model, loss: Loss, weights: Weights, rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> _Squares:
    """Choose how to sum squares over samples: by batched derivatives where a first sample shows that they work."""
    first = [tensor[:1] for tensor in rows]
    batched = _batched(model, loss, weights, first, rebuild, where)
    try:
        list(batched(first, rebuild, where))
    except RuntimeError:
        return _one_by_one(model, loss, weights)
    return batched


def _one_by_one(model: Model, loss: Loss, weights: Weights) -> _Squares:
    gradient = gradients(model, loss, weights)

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        for n in range(len(rows[0])):
            found = gradient(rebuild([tensor[n] for tensor in rows]), where)
            yield {name: slope.square() for name, slope in found.items()}

    return squares


def _batched(
    model: Model, loss: Loss, weights: Weights, first: Sequence[Tensor], rebuild: Rebuild, where: str
) -> _Squares:
    with torch.no_grad(), told(where):
        taps = single_rows(weights, lambda: loss(model, rebuild([tensor[0] for tensor in first])))
    others = {name: weight for name, weight in weights.items() if name not in taps}
    size = sum(weight.numel() for weight in others.values())
    value = losses(model, loss)

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        def tapped(found: tuple[Weights, Weights], *sample: Tensor) -> tuple[Tensor, Weights]:
            with Tapping(weights, found[1]) as tapping:
                return value(found[0], rebuild(sample), where), tapping.inputs

        each_sample: Any = vmap(grad_and_value(tapped, has_aux=True), (None, *[0] * len(rows)), randomness="different")
        step = max(1, _AT_A_TIME // size) if size else len(rows[0])
        for start in range(0, len(rows[0]), step):
            part = [tensor[start : start + step] for tensor in rows]
            (own, outputs), (values, inputs) = each_sample((others, taps), *part)
            sums = {name: _sum_of_squares(gradient) for name, gradient in own.items()}
            sums |= {name: _outer(outputs[name], inputs[name]) for name in taps}
            finite(values.sum(), where)
            yield {name: sums[name] for name in weights}

    return squares


def _sum_of_squares(gradients: Tensor) -> Tensor:
    return torch.einsum("n...,n...->...", wide(gradients), wide(gradients))


def _outer(outputs: Tensor, inputs: Tensor) -> Tensor:
    """The sum over samples of the squares of outer products: `(D * D)^T (A * A)`."""
    return wide(outputs).flatten(1).square().T @ wide(inputs).flatten(1).square()
