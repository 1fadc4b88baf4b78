"""How a pruner is told to train: a loss and batches for the built-in loop, or a function with a loop of its own."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from fprune.criteria.batches import Batches, callable_model, check_data
from fprune.errors import ConfigError, ConfigTypeError
from fprune.isolation import isolated
from fprune.model import Model
from fprune.scope import Scope
from fprune.training.loop import Loss, MakeOptimizer, looped
from fprune.training.private import Train

__all__ = ["check_count", "check_positive", "check_training", "session", "trainer"]


def check_training(
    who: str, loss: object, batches: object, train: object = None, epochs: object = 1, optimizer: object = None
) -> None:
    """Refuse, when an expression is written, what does not say how to train, or says it twice.

    Examples:
        >>> check_training("slim", None, None)
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: slim trains, and is given neither loss and batches nor train
        hint: slim(loss, batches), or slim(train=fn) with the function finetune takes

    Args:
        who: the pruner.
        loss: `loss(module, batch)`.
        batches: what can be read again and again.
        train: a function with a loop of its own.
        epochs: how often the built-in loop reads the batches.
        optimizer: makes the built-in loop's optimizer.

    Raises:
        ConfigError: it is.
        ConfigTypeError: something is of the wrong type.
    """
    check_count(who, "epochs", epochs)
    for name, fn in (("train", train), ("optimizer", optimizer)):
        if fn is not None and not callable(fn):
            hint = "optimizer=lambda params: torch.optim.SGD(params, 0.1)" if name == "optimizer" else "train(module)"
            raise ConfigTypeError(f"{who}: {name}: expected a function, got {type(fn).__name__}", hint=hint)
    if train is None:
        if loss is None and batches is None:
            found = f"{who} trains, and is given neither loss and batches nor train"
            raise ConfigError(found, hint=f"{who}(loss, batches), or {who}(train=fn) with the function finetune takes")
        check_data(who, loss, batches)
        return
    told = {"loss": loss is not None, "batches": batches is not None, "optimizer": optimizer is not None}
    told["epochs"] = epochs != 1
    if any(told.values()):
        name = next(name for name, given in told.items() if given)
        raise ConfigError(
            f"{who}: train brings its own loop, so {name} has no effect",
            hint=f"leave out {name}, or train and use the built-in loop",
        )


def check_count(who: str, name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1."""
    if type(value) is not int:
        raise ConfigTypeError(f"{who}: {name}: expected a whole number, got {value!r}", hint=f"{name}=1")
    if value < 1:
        raise ConfigError(f"{who}: {name}: expected at least 1, got {value}")


def check_positive(who: str, name: str, value: object) -> None:
    """Refuse what is not a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigTypeError(f"{who}: {name}: expected a number, got {value!r} ({type(value).__name__})")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{who}: {name}: expected a positive number, got {value}")


@contextmanager
def session(scope: Scope, who: str) -> Generator[Model]:
    """Give the model of a scope, masked, for training; nothing of the process is changed afterwards.

    The random generators are seeded with the scope's seed, and gradients are on, whoever calls.

    Args:
        scope: knows the model.
        who: the pruner, for messages.

    Yields:
        The model.

    Raises:
        CompositionError: the scope has tensors only.
    """
    model = callable_model(scope, who)
    with torch.inference_mode(False), isolated(scope.seed):  # outside inference mode gradients are on
        yield model


def trainer(
    who: str,
    loss: Loss | None,
    batches: Batches | None,
    train: Train | None,
    epochs: int,
    optimizer: MakeOptimizer | None,
) -> Train:
    """The user's training function, or the built-in loop, from options that `check_training` has accepted."""
    if train is not None:
        return train
    if loss is None or batches is None:
        check_training(who, loss, batches)
        raise ConfigError(f"{who}: loss and batches go together", hint=f"{who}(loss, batches)")
    return looped(who, loss, batches, epochs, optimizer)
