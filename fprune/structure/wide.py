"""Compute in float64 without a float64 copy of the model: tensors are widened one operator at a time."""

import contextlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_WIDER = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}


class NarrowWriteError(Exception):
    """A tensor of the model itself is written in place; its wide copy would be lost."""


def wide(value: Tensor | torch.dtype) -> Any:
    """A floating-point tensor or dtype in double precision; anything else as it is."""
    if isinstance(value, torch.dtype):
        return _WIDER.get(value, value)
    return value.to(_WIDER[value.dtype]) if value.dtype in _WIDER else value


class Wide(TorchDispatchMode):
    """While it is active every operator reads, computes and returns double precision.

    Casts that the code itself makes, such as `x.to(torch.float32)` in the norms of language models, stay wide too.

    Examples:
        >>> import torch
        >>> third = torch.tensor(1.0) / 3
        >>> with torch.inference_mode(), Wide():
        ...     third = torch.tensor(1.0) / torch.tensor(3.0).to(torch.float32)
        >>> third.item() == 1 / 3
        True
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Widen what goes in and what comes out."""
        del types
        view, written = _effects(func)
        kwargs = kwargs or {}
        if any(isinstance(args[i], Tensor) and args[i].dtype in _WIDER for i in written if i < len(args)):
            raise NarrowWriteError(f"{func} writes a tensor of the model")
        if view and not any(isinstance(x, (Tensor, torch.dtype)) for x in (*args[1:], *kwargs.values())):
            return func(*args, **kwargs)  # still a view of the model's own memory: widened when it is computed with
        wider: Any = pytree.tree_map_only((Tensor, torch.dtype), wide, (args, kwargs))
        return pytree.tree_map_only(Tensor, wide, func(*wider[0], **wider[1]))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would wrap `__torch_dispatch__` to keep its compiler out, and import the compiler to do so."""
        return False


def widened(value: Tensor) -> Tensor:
    """A floating-point tensor in double precision, where the device knows it."""
    return value if value.device.type == "mps" else wide(value)


def precise(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The wide mode where the device knows float64."""
    return contextlib.nullcontext() if device.type == "mps" else Wide()


def is_view(op: Any) -> bool:
    """Whether an operator's result shares the memory of its first argument."""
    return hasattr(op, "_schema") and _effects(op)[0]


@cache
def _effects(func: Any) -> tuple[bool, tuple[int, ...]]:
    """Whether an operator returns a view of its first argument, and the positions of the arguments that it writes."""
    schema = func._schema
    written = tuple(i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write)
    fresh = schema.name == "aten::lift_fresh"  # a number that the code has just made a tensor of
    return not written and not fresh and any(r.alias_info is not None for r in schema.returns), written
