"""The registry of how constants pass through operators, and the two generic ways they do.

"Depends on the input" is always a safe answer: it can only keep more.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known, mapped
from fprune.structure.operators import is_inplace, placed
from fprune.structure.wide import is_view, widened

Bound: TypeAlias = Mapping[str, Any]
Transfer: TypeAlias = Callable[[Node, Bound, tuple[Shape, ...]], "Known | list[Known] | None"]
TRANSFER: dict[str, Transfer] = {}
_T = TypeVar("_T", bound=Transfer)


def transfer(*names: str) -> Callable[[_T], _T]:
    """Register how constants pass through operators; `None` means the whole result depends on the input."""

    def register(fn: _T) -> _T:
        TRANSFER.update(dict.fromkeys(names, fn))
        return fn

    return register


def pointwise(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Known], shape: Shape) -> Known:
    """Element by element: tainted where any operand is."""
    taint = operands[0].taint
    for operand in operands[1:]:
        taint = taint | operand.taint
    values = cast("list[Tensor]", torch.broadcast_tensors(*(operand.value for operand in operands)))

    def small(k: Known) -> Tensor:
        return k.value.expand(values[0].shape) if k is args[0] and is_inplace(node.op) else k.value

    value = _applied(node, mapped(args, small), mapped(kwargs, small), taint.device)
    return Known.of(taint, value, shape)


def executed(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Known | list[Known]:
    """No operand depends on the input: the result is what the operator gives."""
    looks = is_view(node.op)  # a view of a weight is widened where it is computed with

    def whole(k: Known) -> Tensor:
        return (k.value if looks else widened(k.value)).expand(k.shape)

    out = _applied(node, mapped(args, whole), mapped(kwargs, whole), device)
    return Known.constant(out) if node.single else [Known.constant(t) for t in out]


def _applied(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
    """Call the operator; one that writes in place writes a copy, and a view of what has other strides is a copy."""
    args, kwargs = placed(args, device), placed(kwargs, device)
    if is_inplace(node.op):
        args = (widened(args[0]).clone(memory_format=torch.contiguous_format), *args[1:])
    if node.name in ("view", "_unsafe_view") and "dtype" not in node.bound:
        return args[0].reshape(*args[1:])
    return node.op(*args, **kwargs)
