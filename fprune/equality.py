"""Equality by value of trees that hold tensors and modules."""

import functools
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn


def same(a: object, b: object) -> bool:
    """Tell whether two trees are equal by value.

    Tensors are equal when dtype, shape, kind of device and bytes are, so NaN equals NaN and -0.0 differs from 0.0.
    Mappings compare by name, records field by field, modules by class, flags, settings and tensors, the rest by `==`.

    Examples:
        >>> same({"w": torch.tensor([1.0, float("nan")])}, {"w": torch.tensor([1.0, float("nan")])})
        True
        >>> same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
        False
    """
    return _same(a, b, loose=False)


def _same(a: Any, b: Any, *, loose: bool) -> bool:
    """`loose` is for what hangs off a module: objects without an equality of their own compare by type there."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and _same_tensor(a, b)
    if isinstance(a, nn.Module):
        return type(a) is type(b) and (loose or _same_module(a, b))
    fields = field_names(a)
    if fields is not None:
        return type(a) is type(b) and all(_same(getattr(a, key), getattr(b, key), loose=loose) for key in fields)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        one, two = cast("Mapping[Any, Any]", a), cast("Mapping[Any, Any]", b)
        return one.keys() == two.keys() and all(_same(one[key], two[key], loose=loose) for key in one)
    if isinstance(a, tuple | list):
        return type(cast(object, a)) is type(b) and _same_items(cast("list[Any]", a), b, loose=loose)
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        one, two = cast("functools.partial[Any]", a), cast("functools.partial[Any]", b)
        return _same((one.func, one.args, one.keywords), (two.func, two.args, two.keywords), loose=loose)
    if loose and isinstance(a, types.MethodType) and isinstance(b, types.MethodType):
        return a.__func__ is b.__func__ and type(a.__self__) is type(b.__self__)
    if loose and _has_no_value(cast(object, a)) and type(cast(object, a)) is type(b):
        return True
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    verdict = a == b
    return verdict if isinstance(verdict, bool) else bool(torch.as_tensor(verdict).all())


def alike(a: object, b: object) -> bool:
    """Tell whether two settings of modules are equal: as `same`, and objects that have no equality go by their type.

    Examples:
        >>> alike(object(), object()), same(object(), object())
        (True, False)
    """
    return _same(a, b, loose=True)


def is_record(value: object) -> bool:
    """Tell whether an attribute is a plain object with fields, such as a configuration.

    Examples:
        >>> from types import SimpleNamespace
        >>> is_record(SimpleNamespace(heads=4)), is_record({"heads": 4}), is_record(torch.zeros(2))
        (True, False, False)
    """
    plain = hasattr(value, "__dict__") and not callable(value) and not isinstance(value, nn.Module | Tensor | Enum)
    return plain and not type(value).__module__.startswith(("torch.", "builtins"))


def _has_no_value(value: object) -> bool:
    """Whether an object is only itself: no equality of its own and not code; or a reference to such an object."""
    code = isinstance(value, types.FunctionType | types.BuiltinFunctionType)
    return isinstance(value, weakref.ref) or (type(value).__eq__ is object.__eq__ and not code)


def _same_items(a: Sequence[Any], b: Sequence[Any], *, loose: bool) -> bool:
    return len(a) == len(b) and all(_same(x, y, loose=loose) for x, y in zip(a, b, strict=True))


def field_names(value: object) -> list[str] | None:
    """The names of an attrs record's fields that count for equality; None for anything else."""
    kind = type(value)
    return [field.name for field in attrs.fields(kind) if field.eq] if attrs.has(kind) else None


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    if (a.dtype, a.shape, a.device.type, a.layout) != (b.dtype, b.shape, b.device.type, b.layout):
        return False
    if a.is_meta:
        return True
    if a.layout != torch.strided or a.is_quantized:
        return torch.equal(a.to_dense(), b.to_dense())
    return torch.equal(bits(a), bits(b).to(a.device))


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The same memory read as integers, so that comparison is by bytes."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().view(_BITS[tensor.element_size()])


# compared by name, or left by torch.compile on the module it was given
_APART = frozenset({"_modules", "_parameters", "_buffers", "_is_torch_compile", "_compiled_call_impl"})


def _same_module(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = dict(named_modules(a)), dict(named_modules(b))
    return (
        list(ours) == list(theirs)
        and _partition(ours) == _partition(theirs)
        and all(_same_settings(ours[name], theirs[name]) for name in ours)
        and _same_tensors(named_tensors(a), named_tensors(b))
    )


def _same_settings(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = settings(a), settings(b)
    return type(a) is type(b) and _same(ours, theirs, loose=True)


def settings(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes, its tensors and children aside; of its hooks, whose ids count up, only the order.

    Examples:
        >>> settings(nn.Linear(3, 2))["out_features"]
        2
    """
    return {key: _hooks(value) if _is_hooks(key) else value for key, value in vars(module).items() if key not in _APART}


def _is_hooks(key: str) -> bool:
    return key.startswith("_") and "_hooks" in key


def _hooks(value: Any) -> Any:
    return list(cast("dict[int, Any]", value).values()) if isinstance(value, dict) else value


def named_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every name of every submodule, the root first; a module used twice has two names."""
    return list(cast("Iterable[tuple[str, nn.Module]]", module.named_modules(remove_duplicate=False)))


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every name of every parameter and buffer, parameters first; a shared tensor has several names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return (
        list(a) == list(b)
        and _partition(a) == _partition(b)
        and all(type(a[name]) is type(b[name]) and a[name].requires_grad == b[name].requires_grad for name in a)
        and all(_same_tensor(a[name], b[name]) for name in a)
    )


def _partition(named: Mapping[str, object]) -> list[int]:
    """Which names share one object: for each name, the position of the object's first name."""
    first: dict[int, int] = {}
    return [first.setdefault(id(value), position) for position, value in enumerate(named.values())]
