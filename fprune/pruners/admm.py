"""ADMM: pull the weights towards a sparse copy of themselves while they train, and prune what has come near zero."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import attrs
import torch
from torch import Tensor

from fprune.allocate import Allocation, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria import channel_norm, magnitude
from fprune.criteria.batches import Batches
from fprune.errors import ConfigError
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.trained import Trained
from fprune.training import Train, trained
from fprune.training.loop import Loss, MakeOptimizer
from fprune.training.recipe import check_count, check_positive, check_training, session, trainer

__all__ = ["admm"]


def _check(
    loss: object = None,
    batches: object = None,
    allocation: object = per_layer,
    *,
    iterations: object = 10,
    epochs: object = 1,
    rho: object = 0.1,
    granularity: object = "element",
    train: object = None,
    optimizer: object = None,
) -> None:
    if granularity not in ("element", "channel"):
        found = f"admm: expected granularity 'element' or 'channel', got {granularity!r}"
        raise ConfigError(found, hint="for heads and coupled channels pass dependency_aware, and granularity='channel'")
    check_count("admm", "iterations", iterations)
    check_positive("admm", "rho", rho)
    check_training("admm", loss, batches, train, epochs, optimizer)


@attrs.frozen(eq=False)
class _Split:
    """The sparse copy Z of the weights, and the scaled dual U, of every parameter that a mask touches."""

    sparse: Mapping[str, Tensor]
    dual: Mapping[str, Tensor]

    @staticmethod
    def of(model: Model, masks: Masks) -> "_Split":
        """Z = prune(W) and U = 0."""
        sparse = masks.apply({name: model[name] for name in masks})
        return _Split(sparse, sparse.map(torch.zeros_like))

    def slope(self, rho: float, name: str, weight: Tensor) -> Tensor:
        """The gradient of rho/2 ||W - Z + U||^2."""
        return rho * (weight - self.sparse[name].to(weight) + self.dual[name].to(weight))

    def shifted(self, model: Model) -> Model:
        """The model with W + U for its weights."""
        return model.replace({name: model[name] + dual for name, dual in self.dual.items()})

    @staticmethod
    def after(shifted: Model, masks: Masks) -> "_Split":
        """Z = prune(W + U) and U + W - Z, from the model that holds W + U."""
        sparse = masks.apply({name: shifted[name] for name in masks})
        return _Split(sparse, {name: shifted[name] - sparse[name] for name in masks})

    def residual(self, model: Model) -> float:
        """||W - Z|| / ||W||."""
        gap = sum(_square(model[name] - sparse) for name, sparse in self.sparse.items())
        size = sum(_square(model[name]) for name in self.sparse)
        return (gap / size) ** 0.5 if size else 0.0


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


@pruner(check=_check)
def admm(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss | None = None,
    batches: Batches | None = None,
    allocation: Allocation = per_layer,
    *,
    iterations: int = 10,
    epochs: int = 1,
    rho: float = 0.1,
    granularity: Literal["element", "channel"] = "element",
    train: Train | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Trained:
    """Train towards a sparse copy of the weights by the alternating direction method of multipliers, then prune.

    In each iteration W trains with loss + rho/2 ||W - Z + U||^2, then Z = prune(W + U) and U = U + W - Z; at the start
    Z = prune(W) and U = 0. `prune` keeps what the allocation keeps of the scores |w|, or of the L2 norms of channels;
    the final masks are those of W. Every parameter that the masks reach is pulled: with an allocation of units also the
    biases, the norms and the weights that read them.

    The metrics `admm/residual/1`, `admm/residual/2`, ... are ||W - Z|| / ||W|| after each iteration. They fall when rho
    and the epochs suffice; what is left at the end is about what pruning takes away at once. The training function is
    the user's own, as `finetune` takes it, called once in each iteration, with the penalty added at each of its
    optimizer steps; or the built-in loop, in training mode, with a new optimizer in each iteration.

    Examples:
        >>> import torch
        >>> from fprune import one_shot
        >>> net = torch.nn.Linear(4, 2)
        >>> def loss(module, batch):
        ...     return module(batch).square().mean()
        >>> pipeline = one_shot() | admm(loss, [torch.eye(4)], iterations=3, epochs=20, rho=0.1)
        >>> result = pipeline.run(net, 0.5)
        >>> result.report.sparsity
        0.5
        >>> [name for name in result.metrics if "residual" in name]
        ['admm/residual/1', 'admm/residual/2', 'admm/residual/3']

    Args:
        params: a `Model`.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(module, batch)`, one number.
        batches: a list, a DataLoader, or what else can be read again and again.
        allocation: how the budget spreads over layers, and what lives and dies together.
        iterations: how often Z and U are renewed, at least 1.
        epochs: how often the built-in loop reads the batches in each iteration.
        rho: weight of the penalty, positive.
        granularity: `"element"` for single weights, `"channel"` for output channels with their bias.
        train: a training function of a module, in place of loss and batches.
        optimizer: makes the built-in loop's optimizer of a list of parameters; Adam with rate 0.001 by default.

    Returns:
        One bool mask for each selected name, the trained model, the residuals and the mean loss.

    Raises:
        ConfigError: the allocation cannot spread what is asked; both or neither of train and loss are given.
        CompositionError: only tensors are given.
        ScoreError: the loss is not one finite number; names epoch and batch.
        DivergenceError: training made a value non-finite.

    References:
        Zhang et al, `A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers
        <https://arxiv.org/abs/1804.03294>`_, 2018
    """
    scope = Scope.of(params)
    criterion = magnitude() if granularity == "element" else channel_norm(p=2)

    def kept(model: Model) -> Masks:
        return allocation(criterion, attrs.evolve(scope, params=model, model=model), config)

    with session(scope, "admm") as model:
        run = trainer("admm", loss, batches, train, epochs, optimizer)
        split = _Split.of(model, kept(model))
        metrics: dict[str, float] = {}
        for iteration in range(1, iterations + 1):
            penalty = {name: partial(split.slope, rho, name) for name in split.sparse}
            model, told = trained(model, scope.masks, run, penalty)
            shifted = split.shifted(model)
            split = _Split.after(shifted, kept(shifted))
            metrics |= {**told, f"admm/residual/{iteration:0{len(str(iterations))}}": split.residual(model)}
        return Trained(kept(model), model, metrics)
