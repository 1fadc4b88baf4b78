"""Where the channels of a layer are measured: after the model's own activation function, or after a given one."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError, close_matches
from fprune.model import Model
from fprune.scope import Scope
from fprune.structure import Structure, trace
from fprune.structure.graph import Node
from fprune.structure.onward import onward, replayed
from fprune.structure.uses import uses

__all__ = ["Activation", "Points", "check_activation", "structural", "structure_of"]

Named: TypeAlias = Literal["relu", "relu6", "gelu"]
Activation: TypeAlias = Named | Callable[[Tensor], Tensor] | None
"""Where a channel is measured: after the activation function that the structure shows, or after this function."""

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6, "gelu": F.gelu}


def check_activation(activation: object) -> None:
    """Refuse, when an expression is written, an activation that is neither a known name nor a function.

    Examples:
        >>> check_activation("relu7")
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: activation: no function 'relu7'
        hint: Did you mean 'relu', 'relu6', 'gelu'?

    Args:
        activation: the user's option.

    Raises:
        ConfigError: the name is unknown.
        ConfigTypeError: it is no name and no function.
    """
    if activation is None or callable(activation):
        return
    names = ", ".join(map(repr, FUNCTIONS))
    if not isinstance(activation, str):
        found = f"activation: expected None, {names} or a function, got {activation!r} ({type(activation).__name__})"
        raise ConfigTypeError(found, hint="None measures after the activation function that the model itself has")
    if activation not in FUNCTIONS:
        hint = close_matches(activation, FUNCTIONS) or f"known: {names}; or pass a function, such as torch.tanh"
        raise ConfigError(f"activation: no function {activation!r}", hint=hint)


def structural(*data: object, activation: Activation = None, **rest: object) -> tuple[str, ...]:
    """Return what a pruner with these options needs: the structure, to find the model's own activation functions.

    Examples:
        >>> structural(activation="relu"), structural()
        ((), ('structure',))
    """
    del data, rest
    return ("structure",) if activation is None else ()


def structure_of(scope: Scope, who: str, instead: str) -> Structure:
    """Return the structure of a scope's model, traced now if need be.

    Args:
        scope: knows the model.
        who: the pruner, for the message.
        instead: an option with which it needs no structure.

    Raises:
        CompositionError: there are no example inputs to trace it with.
    """
    if isinstance(scope.structure, Structure):
        return scope.structure
    if scope.model is None or scope.example_inputs is None:
        raise CompositionError(
            f"{who} reads the structure of the model, which is traced with example_inputs",
            hint=f"pass what the model's forward takes, example_inputs=(x,), or {instead}",
        )
    return trace(scope.model, scope.example_inputs)


class Points:
    """The point at which each use of a layer is measured.

    Args:
        model: the model that runs.
        structure: shows its activation functions; None when a function is given.
        activation: the function.
        training: whether the model runs in training mode.
    """

    def __init__(self, model: Model, structure: Structure | None, activation: Activation, training: bool) -> None:
        """Look up which calls of the program use which weight."""
        self._tensors, self._training = model.params.merged(model.buffers), training
        self._graph = None if structure is None else structure.graph
        self._calls: dict[str, list[Node]] = {} if structure is None else uses(structure.graph)
        self._ways: dict[int, tuple[Node, ...]] = {}
        self._function = FUNCTIONS[activation] if isinstance(activation, str) else activation

    def at(self, name: str, number: int, out: Tensor) -> Tensor:
        """Return what the output of a layer becomes at the point where it is measured.

        Args:
            name: the layer's weight.
            number: how often the weight was used before in this batch.
            out: what came out this time; left as it is.
        """
        if self._function is not None:
            found = self._function(out)
            if found.shape != out.shape:
                told = f"activation: gave shape {tuple(found.shape)} for {tuple(out.shape)}, the output of {name!r}"
                raise ScoreError(told, hint="it has to act element by element, like relu")
            return found
        calls = self._calls.get(name)
        if self._graph is None or not calls:
            return out
        start = calls[number % len(calls)].out
        if start not in self._ways:
            self._ways[start] = onward(self._graph, start)
        return replayed(self._graph, self._ways[start], start, out, self._tensors, training=self._training)

    def check(self, seen: Mapping[str, int], where: str) -> None:
        """Refuse a batch that used a layer more or less often than the structure knows.

        Args:
            seen: how often each weight was used.
            where: the batch, in words.

        Raises:
            ScoreError: the number is no multiple of the structure's.
        """
        for name, count in seen.items() if self._function is None else ():
            known = len(self._calls.get(name, ()))
            if not known or count % known:
                found = f"{where}: {name!r} is used {count} times, and {known} times by the model on example_inputs"
                raise ScoreError(found, hint="say where to measure: activation='relu'")
