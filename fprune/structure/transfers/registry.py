"""The registry of how constants pass through operators, and the two generic ways they do.

"Depends on the input" is always a safe answer: it can only keep more.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known, mapped
from fprune.structure.operators import functional

Bound: TypeAlias = Mapping[str, Any]
Transfer: TypeAlias = Callable[[Node, Bound, tuple[Shape, ...]], "Known | list[Known] | None"]
TRANSFER: dict[str, Transfer] = {}


def transfer(*names: str) -> Callable[[Transfer], Transfer]:
    """Register how constants pass through operators; `None` means the whole result depends on the input."""

    def register(fn: Transfer) -> Transfer:
        TRANSFER.update(dict.fromkeys(names, fn))
        return fn

    return register


def pointwise(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Known], shape: Shape) -> Known:
    """Element by element: tainted where any operand is."""
    taint = operands[0].taint
    for operand in operands[1:]:
        taint = taint | operand.taint
    value = functional(node.op)(*mapped(args, lambda k: k.value), **mapped(kwargs, lambda k: k.value))
    return Known.of(taint, value, shape)


def executed(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Known | list[Known]:
    """No operand depends on the input: the result is what the operator gives."""
    if "device" in kwargs:  # recorded on the meta device
        kwargs = {**kwargs, "device": device}
    whole: Callable[[Known], Tensor] = lambda k: k.value.expand(k.shape)  # noqa: E731
    out = functional(node.op)(*mapped(args, whole), **mapped(kwargs, whole))
    return Known.constant(out) if node.single else [Known.constant(t) for t in out]
