"""Example inputs: the positional and keyword arguments of one forward pass."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, final

import attrs
from torch import Tensor

from fprune import tree
from fprune.errors import ConfigTypeError
from fprune.tree import Flat

T = TypeVar("T")


def _no_kwargs() -> Flat[Any]:
    return Flat()


@final
@attrs.frozen(eq=False, repr=False)
class Inputs:
    """The arguments of one call: `model(*args, **kwargs)`.

    Examples:
        >>> import torch
        >>> Inputs.of(torch.zeros(2, 3))
        Inputs(float32[2, 3])
        >>> Inputs.of({"ids": torch.zeros(1, 4), "causal": True})
        Inputs(causal=True, ids=float32[1, 4])

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Flat[Any] = attrs.field(factory=_no_kwargs)

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
        return f"Inputs({', '.join([*[tree.brief(value) for value in self.args], *named])})"


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def inputs(*args: Any, **kwargs: Any) -> Inputs:
    """Collect the arguments of one forward pass, positional and keyword.

    Examples:
        >>> import torch
        >>> inputs(torch.zeros(1, 3), flip=False)
        Inputs(float32[1, 3], flip=False)

    Args:
        args: Positional arguments of the model's forward.
        kwargs: Keyword arguments of the model's forward.

    Returns:
        A record to pass as `example_inputs`.
    """
    return Inputs(args, Flat(kwargs))
