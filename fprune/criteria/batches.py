"""Batches of data, and the loss of a model on them: what every criterion that looks at data goes through.

A criterion gets the scope, and reads one batch at a time:

    with running(scope, "taylor", training) as model:
        value = losses(model, loss)
        weights = differentiated(model, layers)
        for where, batch in each(batches, "taylor"):
            gradients, found = grad_and_value(lambda weights: value(weights, batch, where))(weights)
            finite(found, where)

`running` gives the model with what masks removed at 0 and in the mode asked for, and guards the random generators and
the grad mode. `each` counts the batches and shows a bar. `losses` is a function of the differentiated parameters alone,
so that `torch.func` transforms go through it; every other parameter is a constant, and of tied parameters only the
canonical name is given. `where` is text such as "taylor, batch 3"; errors name it. The expression is checked by
`check_data` when it is written.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError
from fprune.isolation import isolated
from fprune.layers import Layer
from fprune.model import Model
from fprune.progress import progress
from fprune.scope import Scope

__all__ = [
    "Batches",
    "Loss",
    "added",
    "callable_model",
    "check_batches",
    "check_data",
    "check_scores",
    "differentiated",
    "each",
    "finite",
    "losses",
    "running",
    "scalar",
    "summed",
    "told",
]

Loss: TypeAlias = Callable[[Model, Any], Tensor]
"""`loss(model, batch)`, one number; the model is called like the module: `model(x)`, `model(**batch)`."""

Batches: TypeAlias = Iterable[Any]
"""Batches that can be read again and again: a list, a DataLoader; each is handed to the user's function untouched."""


def check_data(who: str, fn: object, batches: object, what: str = "loss") -> None:
    """Refuse, when an expression is written, a function that cannot be called and batches that cannot be read again.

    Examples:
        >>> check_data("taylor", max, iter([1, 2]))
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigTypeError: taylor: batches is a list_iterator, which can be read only once
        hint: pass something that can be read again: a list, or a DataLoader

    Args:
        who: the pruner, for the message.
        fn: the user's function.
        batches: the user's batches.
        what: the name of the function's argument.

    Raises:
        ConfigTypeError: one of the two is of the wrong type.
        ConfigError: there are no batches.
    """
    if not callable(fn):
        found = f"{who}: {what}: expected a function {what}(model, batch), got {type(fn).__name__}"
        raise ConfigTypeError(found, hint=f"the order is {who}({what}, batches)")
    check_batches(who, batches)


def check_scores(loss: object, batches: object, *rest: object, **options: object) -> None:
    """Refuse the same of a criterion that reads `(loss, batches, ...)`, whatever its options.

    Raises:
        ConfigTypeError: as in `check_data`.
        ConfigError: as in `check_data`.
    """
    del rest, options
    check_data("the criterion", loss, batches)


def check_batches(who: str, batches: object) -> None:
    """Refuse what cannot be read again and again, and what would fall into something other than batches.

    Args:
        who: the pruner, for the message.
        batches: the user's batches.

    Raises:
        ConfigTypeError: it is an iterator, one tensor, one mapping, text, a dataset of samples, or no iterable.
        ConfigError: it is empty.
    """
    kind = type(batches).__name__
    if isinstance(batches, Iterator):
        found = f"{who}: batches is a {kind}, which can be read only once"
        raise ConfigTypeError(found, hint="pass something that can be read again: a list, or a DataLoader")
    for types, parts, hint in _NOT_BATCHES:
        if isinstance(batches, types) and not isinstance(batches, IterableDataset):
            raise ConfigTypeError(f"{who}: batches is a {kind}, whose items are {parts}, not batches", hint=hint)
    if not isinstance(batches, Iterable) and not hasattr(type(batches), "__getitem__"):
        raise ConfigTypeError(f"{who}: batches: expected a list of batches or a DataLoader, got {kind}")
    if isinstance(batches, Sequence) and not cast("Sequence[Any]", batches):
        raise ConfigError(f"{who}: there are no batches", hint="pass at least one")


_NOT_BATCHES: tuple[tuple[tuple[type, ...], str, str], ...] = (
    ((str, bytes), "characters", "pass a list, or a DataLoader"),
    ((Tensor, np.ndarray), "rows", "for a single batch, write [tensor]"),
    ((Mapping,), "keys", "for a single batch, write [batch]"),
    ((Dataset,), "samples", "DataLoader(dataset, batch_size=32)"),
)


def each(batches: Batches, who: str) -> Iterator[tuple[str, Any]]:
    """Yield each batch with its place in words, behind a progress bar.

    Examples:
        >>> list(each(["x", "y"], "taylor"))
        [('taylor, batch 0', 'x'), ('taylor, batch 1', 'y')]

    Args:
        batches: what can be read again and again.
        who: the pruner.

    Yields:
        Words for messages, and the batch as it is.

    Raises:
        ConfigError: there was none.
    """
    number = -1
    for number, batch in enumerate(progress(batches, who)):
        yield f"{who}, batch {number}", batch
    if number < 0:
        raise ConfigError(f"{who}: there are no batches", hint="pass at least one; an iterator is empty after one pass")


def summed(batches: Batches, who: str, terms: Callable[[Any, str], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Add up, name by name, what a function gives for each batch; one batch's terms are in memory at a time.

    Examples:
        >>> summed([1.0, 2.0], "taylor", lambda batch, where: {"w": torch.tensor(batch)})
        {'w': tensor(3.)}

    Args:
        batches: what can be read again and again.
        who: the pruner.
        terms: of a batch and its place in words, a fresh tensor for each name.

    Returns:
        Name -> sum.
    """
    total: dict[str, Tensor] = {}
    for where, batch in each(batches, who):
        total = added(total, terms(batch, where))
    return total


def added(total: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add fresh tensors to a sum that started empty, in its memory."""
    return {name: total[name].add_(term) if name in total else term for name, term in terms.items()}


def callable_model(scope: Scope, who: str) -> Model:
    """Return the model of a scope, with what inherited masks removed at 0.

    Raises:
        CompositionError: the scope has tensors only, nothing that can be run.
    """
    if scope.model is None:
        found = f"{who} runs the model on batches, found only tensors"
        raise CompositionError(found, hint="pass Model.from_module(net) in place of a mapping")
    masked = [name for name in scope.masks if name in scope.model]
    return scope.model.replace(scope.masks.apply({name: scope.model[name] for name in masked}))


@contextmanager
def running(scope: Scope, who: str, training: bool = False) -> Generator[Model]:
    """Give the model of a scope for calls on batches; nothing of the process is changed afterwards.

    The generators are seeded with the scope's seed on the way in, so two passes over the same batches draw the same.

    Args:
        scope: knows the model.
        who: the pruner, for messages.
        training: training mode; evaluation mode by default, whatever the model's own flag.

    Yields:
        The model, masked, in its mode.

    Raises:
        CompositionError: the scope has tensors only.
    """
    model = callable_model(scope, who)
    with torch.inference_mode(False), isolated(scope.seed):
        yield model.train() if training else model.eval()


def differentiated(model: Model, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the weights of layers as a plain dict, which is what `torch.func` transforms take."""
    return {layer.weight: model[layer.weight].detach() for layer in layers}


def losses(model: Model, loss: Loss, *, strict: bool = True) -> Callable[[dict[str, Tensor], Any, str], Tensor]:
    """Turn the user's loss into a function of some parameters, a batch and the batch's place in words.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False)).replace({"weight": torch.ones(1, 2)})
        >>> value = losses(model, lambda model, x: model(x).sum())
        >>> torch.func.grad(value)({"weight": model["weight"]}, torch.tensor([[3.0, 4.0]]), "batch 0")
        {'weight': tensor([[3., 4.]])}

    Args:
        model: what `running` gives.
        loss: the user's function.
        strict: whether to refuse a loss that depends on none of the parameters.

    Returns:
        A function that `torch.func` transforms go through. It refuses a loss that is not one floating point number.
    """

    def value(params: dict[str, Tensor], batch: Any, where: str) -> Tensor:
        with told(where):
            found = loss(model.replace(params), batch)
        found = scalar(found, where)
        if strict and torch.is_grad_enabled() and not found.requires_grad:
            reason = f"{where}: the loss does not depend on the weights of {', '.join(list(params)[:3])}"
            hint = "call the model that loss is given; item(), detach() and no_grad() cut it off; exclude unused layers"
            raise ScoreError(reason, hint=hint)
        return found

    return value


def scalar(value: object, where: str) -> Tensor:
    """Return a loss that is one floating point number.

    Raises:
        ScoreError: it is something else.
    """
    if not isinstance(value, Tensor):
        found = f"{where}: the loss is {value!r:.60} ({type(value).__name__}), expected a tensor with one number"
        raise ScoreError(found, hint="return the tensor itself; a model output has it as .loss")
    if value.ndim != 0:
        found = f"{where}: the loss has shape {tuple(value.shape)}, expected one number"
        raise ScoreError(found, hint="end the loss with .mean() or .sum()")
    if not value.is_floating_point():
        raise ScoreError(f"{where}: the loss is {value.dtype}, expected a floating point number")
    return value


def finite(value: Tensor, where: str) -> None:
    """Refuse a loss that is infinite or not a number.

    Raises:
        ScoreError: it is.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ScoreError(f"{where}: the loss is {number}", hint="look for overflow and for broken data in this batch")


@contextmanager
def told(where: str) -> Generator[None]:
    """Add to an error of the user's function where it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise
