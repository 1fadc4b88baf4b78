"""Learn scores together with the weights they gate, through masks that change at every step."""

from collections.abc import Mapping
from itertools import count
from typing import Any, final

import attrs
import torch
from torch import Tensor

from fprune.config import Config
from fprune.criteria.batches import Batches
from fprune.masks import Masks
from fprune.model import Model
from fprune.training.back import taken_back
from fprune.training.functional import loss_with
from fprune.training.hold import zero_after_steps, zero_pruned
from fprune.training.loop import Loss, MakeOptimizer, adam, fit, trainable
from fprune.training.scores import Gated

__all__ = ["Course", "gate", "learn"]


def gate(weight: Tensor, score: Tensor, mask: Tensor | None) -> Tensor:
    """W * M, through which the gradient reaches the score as if M were the score.

    dL/dW = dL/d(W * M) * M and dL/dS = dL/d(W * M) * W.

    Examples:
        >>> weight = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> score = torch.zeros(2, requires_grad=True)
        >>> gated = gate(weight, score, torch.tensor([True, False]))
        >>> torch.autograd.grad(gated.sum(), (weight, score))
        (tensor([1., 0.]), tensor([2., 3.]))

    Args:
        weight: any shape.
        score: the same shape, finite.
        mask: bool, broadcastable to it; None keeps everything.
    """
    straight = score - score.detach()  # exactly 0, with the gradient of the score
    return weight * ((1.0 if mask is None else mask.to(weight.dtype)) + straight)


@final
@attrs.frozen
class Course:
    """How much is masked in the course of a training.

    Args:
        soft: whether a threshold decides, rather than the count.
        warm_up: fraction of the steps before anything is masked.
        cool_down: fraction of the steps after the target is reached.
        tau: the threshold.
        penalty: weight of the mean sigmoid of the scores, for a threshold.
    """

    soft: bool = False
    warm_up: float = 0.0
    cool_down: float = 0.0
    tau: float = 0.1
    penalty: float = 10.0

    def fraction(self, progress: float) -> float:
        """Of the target: 0 in the warm-up, 1 in the cool-down, 1 - (1 - u)^3 between.

        Examples:
            >>> course = Course(warm_up=0.2, cool_down=0.4)
            >>> [course.fraction(step / 10) for step in (0, 2, 4, 6, 9)]
            [0.0, 0.0, 0.875, 1.0, 1.0]

        Args:
            progress: the steps that are done, as a fraction of all, in [0, 1].
        """
        u = (progress - self.warm_up) / (1 - self.warm_up - self.cool_down)
        return 1 - (1 - min(max(u, 0.0), 1.0)) ** 3

    def masks(self, gated: Gated, scores: Mapping[str, Tensor], config: Config, progress: float) -> Masks:
        """What is masked at a step."""
        if self.soft:
            return gated.soft(scores, self.tau)
        return gated.hard(scores, config.scaled(self.fraction(progress)))

    def term(self, gated: Gated, scores: Mapping[str, Tensor], progress: float) -> Tensor | float:
        """What the loss gets besides: penalty * fraction * mean sigmoid(S), for a threshold."""
        if not self.soft:
            return 0.0
        opened = torch.cat([values.flatten().sigmoid() for values in gated.sums(scores).values()])
        return self.penalty * self.fraction(progress) * opened.mean()

    def optimizer(self, scores: list[Tensor]) -> torch.optim.Optimizer:
        """What steps scores: gradient descent, so that they are sums; the rate matters to a threshold only."""
        return torch.optim.SGD(scores, lr=100.0 if self.soft else 1.0)


def learn(
    who: str,
    gated: Gated,
    model: Model,
    config: Config,
    course: Course,
    loss: Loss,
    batches: Batches,
    *,
    epochs: int,
    optimizer: MakeOptimizer | None,
    score_optimizer: MakeOptimizer | None,
) -> tuple[Model, dict[str, Tensor], dict[str, float]]:
    """Train a copy of a model in which masks, from scores that learn as well, gate parameters.

    Args:
        who: the pruner, for messages.
        gated: what gets scores.
        model: the model.
        config: the target.
        course: how much is masked when.
        loss: `loss(module, batch)`.
        batches: what can be read again and again.
        epochs: how often.
        optimizer: makes the weights' optimizer.
        score_optimizer: makes the scores' optimizer.

    Returns:
        The trained model with nothing masked, the scores, and metrics.
    """
    held = gated.scope.masks
    module = model.to_module().train()
    zero_pruned(module, held)
    params = dict(module.named_parameters(remove_duplicate=False))
    scores = {name: torch.zeros_like(params[name].detach(), requires_grad=True) for name in gated.names}
    before: dict[str, tuple[Tensor, Tensor]] = {}  # the masks of this step, and the values they keep as they are
    done, steps = count(), epochs * _length(batches)

    def value(batch: Any) -> tuple[Tensor, Tensor | float]:
        progress = next(done) / steps
        masks = course.masks(gated, scores, config, progress)
        before.clear()
        before.update({name: (masks[name], params[name].detach().clone()) for name in scores if name in masks})
        weights = {name: gate(params[name], score, masks.get(name)) for name, score in scores.items()}
        return loss_with(module, weights, loss, batch), course.term(gated, scores, progress)

    @torch.no_grad()
    def restore(*_: object) -> None:
        for name, (mask, old) in before.items():
            params[name].copy_(torch.where(mask, params[name], old))

    ours = (adam if optimizer is None else optimizer)(trainable(module, who))
    theirs = (course.optimizer if score_optimizer is None else score_optimizer)(list(scores.values()))
    ours.register_step_post_hook(restore)  # momentum and weight decay move what has no gradient
    with zero_after_steps(module, held):
        metrics = fit(who, batches, value, [ours, theirs], epochs)
    return taken_back(model, module, held), {name: score.detach() for name, score in scores.items()}, metrics


def _length(batches: Batches) -> int:
    """How many batches there are; counted where they do not say."""
    try:
        return len(batches)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return sum(1 for _ in batches)
