"""Digests of trees, and seeds derived from seeds; the same in every process and on every device."""

import functools
import hashlib
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fprune.equality import bits, field_names, named_modules, named_tensors
from fprune.errors import FpruneError


def digest(tree: object) -> str:
    """Hash a tree's names, dtypes, shapes and bytes; the same on every device and in every process.

    Examples:
        >>> digest({"a": torch.zeros(2), "b": 1}) == digest({"b": 1, "a": torch.zeros(2)})
        True
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2, 1))
        False

    Args:
        tree: Tensors, numbers, texts, functions and modules in mappings, sequences and records.

    Returns:
        32 hexadecimal digits.

    Raises:
        FpruneError: The tree holds an object without stable bytes.
    """
    state = hashlib.blake2b(digest_size=16)
    _feed(state.update, tree)
    return state.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:
    def tag(*parts: object) -> None:
        text = repr(parts).encode()
        update(len(text).to_bytes(8, "little") + text)

    if isinstance(value, Tensor):
        tag("tensor", str(value.dtype), tuple(value.shape), value.is_meta)
        update(_memory(value))
    elif isinstance(value, nn.Module):
        modules = [(name, _path(type(child)), child.training) for name, child in named_modules(value)]
        tag("module", modules)
        _feed(update, named_tensors(value))
    elif (fields := field_names(value)) is not None:
        tag("record", _path(type(cast(object, value))))
        for key in fields:
            _feed(update, getattr(value, key))
    elif isinstance(value, Mapping):
        items = sorted(cast("Mapping[Any, Any]", value).items(), key=lambda item: repr(item[0]))
        tag("mapping", len(items))
        for key, item in items:
            _feed(update, key)
            _feed(update, item)
    elif isinstance(value, tuple | list):
        items = cast("list[Any]", value)
        tag("sequence", len(items))
        for item in items:
            _feed(update, item)
    elif isinstance(value, set | frozenset):
        tag("set", sorted(digest(item) for item in cast("set[Any]", value)))
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        tag(type(value).__name__, value)
    elif isinstance(value, functools.partial):
        part = cast("functools.partial[Any]", value)
        _feed(update, (part.func, part.args, part.keywords))
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        tag("function", _path(value))
    else:
        raise FpruneError(
            f"cannot digest {value!r} of type {_path(type(value))}", hint="use tensors, numbers, texts or records"
        )


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _memory(tensor: Tensor) -> Any:
    if tensor.is_meta or tensor.numel() == 0:
        return b""
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    flat = bits(dense.cpu().contiguous()).contiguous()
    return flat.numpy()


def fold_in(seed: int, *data: int | str) -> int:
    """Derive a seed from a seed and what it is for; stable over processes and platforms.

    Examples:
        >>> fold_in(0, 3, "finetune") == fold_in(0, 3, "finetune")
        True
        >>> fold_in(0, "ab", "c") == fold_in(0, "a", "bc")
        False

    Args:
        seed: Any integer.
        data: Round, stage name, layer name and the like.

    Returns:
        An integer in [0, 2^63).
    """
    parts = [item if isinstance(item, str) else operator.index(item) for item in (seed, *data)]
    raw = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1


def generator(seed: int, *data: int | str) -> torch.Generator:
    """Make a fresh generator on the CPU, seeded with `fold_in(seed, *data)`.

    Examples:
        >>> draw = [torch.rand(3, generator=generator(0, "conv1.weight")) for _ in range(2)]
        >>> torch.equal(*draw)
        True
    """
    return torch.Generator(device="cpu").manual_seed(fold_in(seed, *data))
