"""What torch has no public names for: its operators by name, which travel as the operators do not, and schemas."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch._ops import OpOverload

__all__ = ["named", "operator", "schema_of"]


def named(op: Callable[..., Any]) -> str | Callable[..., Any]:
    """The full name of an operator of torch; any other function as it is.

    Examples:
        >>> named(torch.ops.aten.relu.default), named(torch.ops.aten.add.Tensor)
        ('aten::relu', 'aten::add.Tensor')
    """
    return op.name() if isinstance(op, OpOverload) else op


def operator(name: str | Callable[..., Any]) -> Callable[..., Any]:
    """The operator of a full name; any other function as it is.

    Examples:
        >>> operator("aten::relu") is torch.ops.aten.relu.default
        True
    """
    if not isinstance(name, str):
        return name
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def schema_of(op: Callable[..., Any]) -> Any:
    """The schema of an operator of torch, which has no public name; None for any other function."""
    return cast("Any", op)._schema if isinstance(op, OpOverload) else None
