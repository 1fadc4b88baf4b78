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
    check_scores,
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
from fprune.errors import ModelError
from fprune.layers import Layer
from fprune.model import Model
from fprune.scope import Scope

__all__ = ["fisher_diagonal"]

_Squares: TypeAlias = Callable[[Sequence[Tensor], Rebuild, str], Iterator[Weights]]
_AT_A_TIME = 1 << 24  # elements of per-sample gradients that are in memory together


@criterion(grain="element", reads="scope", check=check_scores)
def fisher_diagonal(
    scope: Scope, layers: Sequence[Layer], grain: Grain, loss: Loss, batches: Batches, *, training: bool = False
) -> dict[str, Tensor]:
    """Score a weight by the empirical Fisher information, which stands for the curvature of a log-likelihood.

    score(i) = 1/2 F_i w_i^2 with F_i = 1/N * sum over samples n of g_ni^2, where g_n is the gradient of the loss of
    sample n alone.

    A sample's loss is `loss(model, batch)` for a batch of this one sample, so it does not matter whether the loss is a
    mean or a sum over the batch. The first dimension of every tensor in a batch counts the samples. What ties samples
    together, such as a contrastive loss, has no meaning here, and norms over a batch cannot be in training mode.

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
        ways: Sequence[_Squares] = ()
        for where, batch in each(batches, "fisher"):
            rows, rebuild = taken_apart(batch, where)
            ways = ways or _ways(model, loss, weights, rebuild([tensor[0] for tensor in rows]), where)
            for squares in ways:
                for terms in squares(rows, rebuild, where):
                    total |= added(total, terms)
            count += len(rows[0])
        return {n: total[n].mul_(wide(weight)).mul_(wide(weight)).mul_(0.5 / count) for n, weight in weights.items()}


def _ways(model: Model, loss: Loss, weights: Weights, sample: Any, where: str) -> list[_Squares]:
    """Choose how to sum the squares of which weights: outer products by taps, the others by their own gradients."""
    with torch.no_grad(), told(where):
        taps = single_rows(weights, lambda: loss(model, sample))
    tapped = {name: weights[name] for name in taps}
    others = {name: weight for name, weight in weights.items() if name not in taps}
    found: list[_Squares] = []
    if tapped:
        found.append(_where_it_works(_by_taps(model, loss, tapped, taps), _one_by_one(model, loss, tapped, True)))
    if others:
        alone = _one_by_one(model, loss, others, not taps)
        step = _AT_A_TIME // sum(weight.numel() for weight in others.values())
        found.append(alone if step < 2 else _where_it_works(_batched(model, loss, others, step, not taps), alone))
    return found


def _where_it_works(fast: _Squares, sure: _Squares) -> _Squares:
    """The fast way for batches that it goes through: `vmap` has no rule for some operators, and none for branches."""

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        parts = fast(rows, rebuild, where)
        try:
            first = next(parts)
        except (RuntimeError, ModelError):
            parts = sure(rows, rebuild, where)  # an error of the user's own is raised here again
            first = next(parts)
        yield first
        yield from parts

    return squares


def _one_by_one(model: Model, loss: Loss, weights: Weights, strict: bool) -> _Squares:
    gradient = gradients(model, loss, weights, strict=strict)

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        for n in range(len(rows[0])):
            found = gradient(rebuild([tensor[n] for tensor in rows]), where)
            yield {name: slope.square() for name, slope in found.items()}

    return squares


def _batched(model: Model, loss: Loss, weights: Weights, step: int, strict: bool) -> _Squares:
    """Per-sample gradients of `step` samples at a time."""
    value = losses(model, loss, strict=strict)

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        def of_sample(weights: Weights, *sample: Tensor) -> Tensor:
            return value(weights, rebuild(sample), where)

        each_sample = _over_samples(grad_and_value(of_sample), len(rows))
        for start in range(0, len(rows[0]), step):
            found, values = each_sample(weights, *(tensor[start : start + step] for tensor in rows))
            finite(values.sum(), where)
            yield {name: torch.einsum("n...,n...->...", wide(found[name]), wide(found[name])) for name in weights}

    return squares


def _by_taps(model: Model, loss: Loss, weights: Weights, taps: Weights) -> _Squares:
    """Sums of squares of outer products, all samples at once: `(D * D)^T (A * A)`."""
    value = losses(model, loss)

    def squares(rows: Sequence[Tensor], rebuild: Rebuild, where: str) -> Iterator[Weights]:
        def of_sample(taps: Weights, *sample: Tensor) -> tuple[Tensor, Weights]:
            with Tapping(weights, taps) as tapping:
                return value({}, rebuild(sample), where), tapping.inputs

        outputs, (values, inputs) = _over_samples(grad_and_value(of_sample, has_aux=True), len(rows))(taps, *rows)
        finite(values.sum(), where)
        yield {name: _squared_rows(outputs[name]).T @ _squared_rows(inputs[name]) for name in weights}

    return squares


def _over_samples(fn: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    return vmap(fn, (None, *[0] * tensors), randomness="different")


def _squared_rows(values: Tensor) -> Tensor:
    return wide(values).flatten(1).square()
