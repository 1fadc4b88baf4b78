"""Example inputs: the arguments of one forward pass, and which of its outputs matter."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast, final

import attrs
from torch import Tensor

from fprune import tree
from fprune.errors import ConfigTypeError
from fprune.tree import Flat

T = TypeVar("T")


Selector: TypeAlias = Callable[[Any], Any]
"""Picks what matters out of what a forward pass returned: `lambda out: out.logits`."""


def _no_kwargs() -> Flat[Any]:
    return Flat()


def _flat(value: Mapping[str, Any]) -> Flat[Any]:
    return Flat(value)


def _selector(value: Selector | None) -> Selector | None:
    if value is not None and not callable(value):
        found = type(value).__name__
        raise ConfigTypeError(
            f"outputs: expected a function of what the forward pass returns, got {found}",
            hint="outputs=lambda out: out.logits; a forward that takes an argument of this name: "
            "Inputs((ids,), {'outputs': x})",
        )
    return value


@final
@attrs.frozen(eq=False, repr=False)
class Inputs:
    """The arguments of one call, `model(*args, **kwargs)`, and which of the outputs have to stay as they are.

    Examples:
        >>> import torch
        >>> Inputs.of(torch.zeros(2, 3))
        Inputs(float32[2, 3])
        >>> Inputs.of({"ids": torch.zeros(1, 4), "causal": True})
        Inputs(causal=True, ids=float32[1, 4])

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        outputs: Given what the forward pass returned, the part of it to preserve: one of its tensors, or several in
            tuples, lists or dicts. None preserves all of it. What is left out, such as hidden states that a model
            returns on the side, may lose channels.

    Raises:
        ConfigTypeError: `outputs` is not a function.
    """

    args: tuple[Any, ...] = ()
    kwargs: Flat[Any] = attrs.field(factory=_no_kwargs, converter=_flat)
    outputs: Selector | None = attrs.field(default=None, kw_only=True, converter=_selector)

    @staticmethod
    def of(x: object) -> "Inputs | None":
        """Read what users pass as `example_inputs`.

        Args:
            x: A tuple of positional arguments, a mapping of keyword arguments, one tensor, an `Inputs`, or None.

        Returns:
            The same as `Inputs`; None stays None.

        Raises:
            ConfigTypeError: Anything else, such as a list, which could be either one argument or several.
        """
        if x is None or isinstance(x, Inputs):
            return x
        if isinstance(x, Tensor):
            return Inputs((x,))
        if isinstance(x, tuple):
            return Inputs(cast("tuple[Any, ...]", x))
        if isinstance(x, Mapping):
            return Inputs((), Flat(cast("Mapping[str, Any]", x)))
        raise ConfigTypeError(
            f"example_inputs: expected a tuple, a dict or a tensor, got {type(x).__name__}",
            hint="write (x,) for one argument, {'ids': x} for keywords, fprune.inputs(x, ids=y) for both",
        )

    def call(self, fn: Callable[..., T]) -> T:
        """Call `fn` with copies of the tensors, so that a model working in place cannot change the caller's.

        Examples:
            >>> import torch
            >>> x = torch.zeros(2)
            >>> inputs(x).call(lambda x: x.add_(1)).tolist(), x.tolist()
            ([1.0, 1.0], [0.0, 0.0])
        """
        args, kwargs = tree.map(_copied, (self.args, dict(self.kwargs)))
        return fn(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return tree.same(self, other) if isinstance(other, Inputs) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # values may be tensors

    def __repr__(self) -> str:
        named = [f"{name}={tree.brief(value)}" for name, value in self.kwargs.items()]
        named += [] if self.outputs is None else [f"outputs={tree.brief(self.outputs)}"]
        return f"Inputs({', '.join([*[tree.brief(value) for value in self.args], *named])})"


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def inputs(*args: Any, outputs: Selector | None = None, **kwargs: Any) -> Inputs:
    """Collect the arguments of one forward pass, positional and keyword, and say which of its outputs matter.

    Examples:
        >>> import torch
        >>> inputs(torch.zeros(1, 3), flip=False)
        Inputs(float32[1, 3], flip=False)
        >>> inputs(torch.zeros(1, 3), outputs=max).outputs
        <built-in function max>

    Args:
        args: Positional arguments of the model's forward.
        outputs: The part of what it returns to preserve, as in `Inputs`; all of it by default. A forward that has an
            argument of this name is given it in a dict: `Inputs((ids,), {"outputs": x})`.
        kwargs: Keyword arguments of the model's forward.

    Returns:
        A record to pass as `example_inputs`.

    Raises:
        ConfigTypeError: `outputs` is not a function.
    """
    return Inputs(args, Flat(kwargs), outputs=outputs)
