"""Movement pruning: learn with the weights which of them move away from zero, and keep those."""

from collections.abc import Mapping
from typing import Literal, cast

from torch import Tensor

from fprune.allocate import Allocation, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria.batches import Batches
from fprune.errors import ConfigError, ConfigTypeError
from fprune.scope import Scope
from fprune.trained import Trained
from fprune.training.loop import Loss, MakeOptimizer
from fprune.training.recipe import check_positive, check_training, session
from fprune.training.scores import gates_of
from fprune.training.straight_through import Course, learn

__all__ = ["movement"]


def _check(
    loss: object,
    batches: object,
    allocation: object = per_layer,
    *,
    mode: object = "hard",
    epochs: object = 3,
    warm_up: object = 0.1,
    cool_down: object = 0.3,
    granularity: object = "element",
    tau: object = 0.1,
    penalty: object = 10.0,
    optimizer: object = None,
    score_optimizer: object = None,
) -> None:
    for name, value, known in (("mode", mode, ("hard", "soft")), ("granularity", granularity, ("element", "channel"))):
        if value not in known:
            found = f"movement: expected {name} {known[0]!r} or {known[1]!r}, got {value!r}"
            raise ConfigError(found, hint="for heads and coupled channels pass dependency_aware")
    check_training("movement", loss, batches, None, epochs, optimizer)
    check_training("movement", loss, batches, None, epochs, score_optimizer)
    check_positive("movement", "penalty", penalty)
    for name, value in (("warm_up", warm_up), ("cool_down", cool_down), ("tau", tau)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigTypeError(f"movement: {name}: expected a number, got {value!r} ({type(value).__name__})")
        if not 0 <= value < 1:
            raise ConfigError(f"movement: {name}: expected a number in [0, 1), got {value}")
    if cast("float", warm_up) + cast("float", cool_down) >= 1:
        found = f"movement: warm_up {warm_up} and cool_down {cool_down} leave nothing of the training"
        raise ConfigError(found, hint="they are fractions of the training; their sum is below 1")


@pruner(check=_check, regrows=True)
def movement(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = per_layer,
    *,
    mode: Literal["hard", "soft"] = "hard",
    epochs: int = 3,
    warm_up: float = 0.1,
    cool_down: float = 0.3,
    granularity: Literal["element", "channel"] = "element",
    tau: float = 0.1,
    penalty: float = 10.0,
    optimizer: MakeOptimizer | None = None,
    score_optimizer: MakeOptimizer | None = None,
) -> Trained:
    """Train weights and scores together, and keep the weights that move away from zero.

    The loss is that of W * M, and the scores S, 0 at the start, learn through M as if M were S:
    dL/dS = dL/d(W * M) * W, so a score rises when its weight moves away from zero. Weights get dL/d(W * M) * M; those
    that are masked keep their value and may come back.

    With `mode="hard"` M is what the allocation keeps of S at sparsity s * f, where f = 1 - (1 - u)^3 and u runs from 0
    to 1 between the warm-up and the cool-down. With `mode="soft"` M = sigmoid(S) > tau and the loss has the term
    penalty * f * mean sigmoid(S); how much is masked on the way follows from the penalty. In both modes the final masks
    are what the allocation keeps of S at s, an exact count.

    Every call begins with a dense mask: what earlier rounds pruned of these layers starts from zero and may come back,
    so the masks replace the inherited ones. Compaction alone is final.

    Elements are scored by `granularity="element"`, output channels with their bias, by the sum of S over them, by
    `granularity="channel"`. An allocation of units, `dependency_aware`, scores each unit by the sum over all its
    slices: attention heads by a rule with `granularity: "head"`, the rows of feed-forward layers by one that selects
    them.

    Examples:
        >>> import torch
        >>> from fprune import one_shot
        >>> net = torch.nn.Linear(4, 2)
        >>> def loss(module, batch):
        ...     return (module(batch) - 1).square().mean()
        >>> result = (one_shot() | movement(loss, [torch.eye(4)], epochs=10)).run(net, 0.5)
        >>> result.report.sparsity, list(result.metrics)
        (0.5, ['movement/loss'])

    Args:
        params: a `Model`.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(module, batch)`, one number.
        batches: a list, a DataLoader, or what else can be read again and again.
        allocation: how the budget spreads over layers, and what lives and dies together.
        mode: whether the count or a threshold decides on the way.
        epochs: how often the batches are read.
        warm_up: fraction of the steps before anything is masked, in [0, 1).
        cool_down: fraction of the steps after the target is reached, in [0, 1).
        granularity: `"element"` or `"channel"`, for allocations that know single layers.
        tau: the threshold of the soft mode, in [0, 1).
        penalty: weight of the soft mode's penalty, positive.
        optimizer: makes the optimizer of the weights; Adam with rate 0.001 by default.
        score_optimizer: makes the optimizer of the scores; by default SGD, with rate 1 in hard mode, where the rate
            makes no difference, and 100 in soft mode.

    Returns:
        One bool mask for each selected name, the trained model, and the mean loss.

    Raises:
        ConfigError: the allocation cannot spread what is asked.
        CompositionError: only tensors are given.
        ScoreError: the loss is not one finite number; names epoch and batch.
        DivergenceError: training made a value non-finite.

    References:
        Sanh et al, `Movement Pruning: Adaptive Sparsity by Fine-Tuning <https://arxiv.org/abs/2005.07683>`_, 2020;
        Lagunas et al, `Block Pruning For Faster Transformers <https://arxiv.org/abs/2109.04838>`_, 2021
    """
    scope, config = Scope.of(params), Config.of(config)
    course = Course(mode == "soft", warm_up, cool_down, tau, penalty)
    with session(scope, "movement") as model:
        gated = gates_of(scope, config, allocation, granularity)
        after, scores, metrics = learn(
            "movement",
            gated,
            model,
            config,
            course,
            loss,
            batches,
            epochs=epochs,
            optimizer=optimizer,
            score_optimizer=score_optimizer,
        )
        return Trained(gated.scope.masks & gated.hard(scores, config), after, metrics)
