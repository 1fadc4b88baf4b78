"""Scores from the flow of gradients: what removing a weight does to the squared norm of the gradient."""

from collections.abc import Sequence

from torch import Tensor

from fprune.criteria.batches import Batches, Loss, check_scores, differentiated, running, summed
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.derivatives import gradients, only_alive, products, wide
from fprune.layers import Layer
from fprune.scope import Scope

__all__ = ["gradient_flow"]


@criterion(grain="element", reads="scope", check=check_scores)
def gradient_flow(
    scope: Scope, layers: Sequence[Layer], grain: Grain, loss: Loss, batches: Batches, *, training: bool = False
) -> dict[str, Tensor]:
    """Score a weight by how much of the gradient's norm goes with it.

    score = w * (H g), elementwise, with the gradient g and the Hessian H of the loss summed over the batches. Without
    the weights d, g.g changes by -2 d.(H g) to first order; the lowest scores are those without which it grows, or
    falls least. Only what is scored takes part in g; what masks removed does not.

    The batches are read twice: for g, then for H g.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False))
        >>> model = model.replace({"weight": torch.tensor([[1.0, -1.0]])})
        >>> scores = gradient_flow(lambda model, x: model(x).square().sum() / 2, [torch.tensor([[3.0, 1.0]])])
        >>> scores(model, model.layers)["weight"]  # H = x x^T and g = H w = [6, 2], so H g = 20 x
        tensor([[ 60., -20.]])

    Args:
        scope: brings the model; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements; filled in by the allocation.
        loss: `loss(model, batch)`, one number.
        batches: a re-iterable of batches.
        training: whether the model runs in training mode.

    Returns:
        Weight name -> scores; they can be negative.

    References:
        Wang et al, `Picking Winning Tickets Before Training by Preserving Gradient Flow
        <https://arxiv.org/abs/2002.07376>`_, 2020
    """
    with running(scope, "grasp", training) as model:
        weights = differentiated(model, layers)
        gradient = gradients(model, loss, weights)

        def copied(batch: object, where: str) -> dict[str, Tensor]:
            # Gradients of two weights may share memory, and sums are added in place.
            return {name: found.clone() for name, found in gradient(batch, where).items()}

        flow = only_alive(scope, summed(batches, "grasp, gradient", copied))
    with running(scope, "grasp", training) as model:  # once more from the seed: the same order, the same dropout
        product = products(model, loss, weights)

        def terms(batch: object, where: str) -> dict[str, Tensor]:
            found = product(batch, where, flow)
            return {name: found[name] * wide(weight) for name, weight in weights.items()}

        return summed(batches, "grasp, curvature", terms)
