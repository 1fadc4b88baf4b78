"""What torch says about its operators: their schemas, their twins, and which act element by element."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from fprune.structure.arguments import rebuilt
from fprune.structure.graph import Node
from fprune.structure.names import schema_of

POINTWISE = frozenset(
    """contiguous clone to _to_copy detach alias dropout feature_dropout alpha_dropout feature_alpha_dropout lift_fresh
    lift_fresh_copy zeros_like ones_like full_like empty_like type_as copy relu relu6 silu gelu mish hardswish
    hardsigmoid hardtanh leaky_relu elu selu celu softplus rrelu float_power where masked_fill lerp addcmul addcdiv fill
    zero logical_and logical_or logical_not isin clamp square softshrink hardshrink log_sigmoid true_divide multiply
    subtract divide""".split()
)
"""Operators that act element by element but do not carry torch's tag for it."""


def is_pointwise(node: Node) -> bool:
    """Whether a call acts element by element, under broadcasting: by torch's tag, else by name."""
    tags = getattr(node.op, "tags", ())
    return torch.Tag.pointwise in tags or node.name in POINTWISE


def is_inplace(op: Callable[..., Any]) -> bool:
    """Whether the operator writes its first argument."""
    schema = schema_of(op)
    return schema is not None and schema.name.endswith("_") and schema.is_mutable


def placed(tree: Any, device: torch.device) -> Any:
    """Arguments with every device among them replaced: programs are recorded on the meta device."""
    return rebuilt(tree, lambda entry: device if isinstance(entry, torch.device) else entry)


def bind(op: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by their name in the operator's schema, defaults filled in."""
    schema = schema_of(op)
    if schema is None:
        return {**cast("dict[str, Any]", dict(enumerate(args))), **kwargs}
    out: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(args):
            out[argument.name] = args[i]
        elif argument.name in kwargs:
            out[argument.name] = kwargs[argument.name]
        else:
            out[argument.name] = argument.default_value if argument.has_default_value() else None
    return out


def aten(name: str, overload: str = "default") -> Callable[..., Any]:
    """An ATen operator by name."""
    return getattr(getattr(torch.ops.aten, name), overload)


def overwritten(value: Tensor, before: Tensor, written: Tensor, overlap: Any) -> Tensor:
    """Stands for `value` after a tensor in the same memory went from `before` to `written`: the same, read anew."""
    del before, written, overlap
    return value
