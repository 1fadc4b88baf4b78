"""The loop for those who bring none: batches, a loss, an optimizer, some epochs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fprune.criteria.batches import Batches, each, finite, scalar, told
from fprune.errors import ModelError, ScoreError

__all__ = ["Loss", "MakeOptimizer", "adam", "fit", "looped", "trainable"]

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""`loss(module, batch)`, one number; the module is a private copy in training mode."""

MakeOptimizer: TypeAlias = Callable[[list[Tensor]], Optimizer]
"""Makes an optimizer of parameters: `lambda params: torch.optim.SGD(params, 0.1)`."""


def adam(params: list[Tensor]) -> Optimizer:
    """The optimizer of those who bring none: Adam with a learning rate of 0.001."""
    return torch.optim.Adam(params, lr=1e-3)


def trainable(module: nn.Module, who: str) -> list[Tensor]:
    """The parameters of a module that train.

    Raises:
        ModelError: there are none.
    """
    params: list[Tensor] = [param for param in module.parameters() if param.requires_grad]
    if not params:
        raise ModelError(f"{who} trains, and every parameter is frozen", hint="net.requires_grad_(True)")
    return params


def fit(
    who: str,
    batches: Batches,
    value: Callable[[Any], tuple[Tensor, Tensor | float]],
    optimizers: Sequence[Optimizer],
    epochs: int,
) -> dict[str, float]:
    """Step optimizers along the gradients of a loss, a step for each batch.

    Examples:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=0.5)
        >>> fit("slim", [1.0, 3.0], lambda batch: ((weight - batch).square().sum(), 0.0), [sgd], epochs=1)
        {'slim/loss': 2.5}
        >>> weight.item()
        3.0

    Args:
        who: the pruner, for the bar and for messages.
        batches: what can be read again and again.
        value: of a batch the user's loss, one number, and what is added to it.
        optimizers: what steps.
        epochs: how often the batches are read.

    Returns:
        The mean of the user's loss over the last epoch.

    Raises:
        ScoreError: the loss is not one finite number, or depends on nothing that trains; names epoch and batch.
        ConfigError: there are no batches.
    """
    found: list[float] = []
    for epoch in range(epochs):
        found.clear()
        for where, batch in each(batches, f"{who}, epoch {epoch + 1} of {epochs}"):
            for optimizer in optimizers:
                optimizer.zero_grad()
            with told(where):
                loss, term = value(batch)
            loss = scalar(loss, where)
            finite(loss.detach(), where)
            if not loss.requires_grad:
                raise ScoreError(
                    f"{where}: the loss does not depend on what trains",
                    hint="item(), detach() and no_grad() cut it off",
                )
            (loss + term).backward()
            for optimizer in optimizers:
                optimizer.step()
            found.append(float(loss.detach()))
    return {f"{who}/loss": sum(found) / len(found)}


def looped(
    who: str, loss: Loss, batches: Batches, epochs: int, optimizer: MakeOptimizer | None
) -> Callable[[nn.Module], dict[str, float]]:
    """A training function of a module, made of a loss and batches; it trains in training mode.

    Examples:
        >>> train = looped("admm", lambda module, x: module(x).square().mean(), [torch.ones(1, 2)], 2, None)
        >>> list(train(nn.Linear(2, 1)))
        ['admm/loss']

    Args:
        who: the pruner, for messages.
        loss: `loss(module, batch)`.
        batches: what can be read again and again.
        epochs: how often.
        optimizer: makes the optimizer; Adam with a learning rate of 0.001 by default.

    Returns:
        Trains a module in place and returns the mean loss over the last epoch.
    """

    def train(module: nn.Module) -> dict[str, float]:
        module.train()
        steps = (adam if optimizer is None else optimizer)(trainable(module, who))
        return fit(who, batches, lambda batch: (loss(module, batch), 0.0), [steps], epochs)

    return train
