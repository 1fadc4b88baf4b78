"""Users' trees of tensors and numbers as JSON beside named tensors, and back."""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from fprune.errors import CheckpointError, StageError
from fprune.tree import Flat

__all__ = ["checked", "packed", "unpacked"]

_DEPTH = 16
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def checked(tree: Any, what: str, depth: int = 0) -> Any:
    """A private copy of a tree, if it can be kept: of dicts, lists, tuples, tensors, numbers, texts and None.

    Examples:
        >>> checked({"step": 3, "rates": (0.1, None)}, "train")
        {'step': 3, 'rates': (0.1, None)}
        >>> checked({"sampler": object}, "train")
        Traceback (most recent call last):
        ...
        fprune.errors.StageError: train carries a type at ['sampler']...

    Args:
        tree: what a function carries on.
        what: who carries it, for errors.
        depth: how deep the tree is in a larger one.

    Raises:
        StageError: it holds something else, which no file could keep without running code.
    """
    where = f"{what} carries"
    return _checked(tree, where, "", depth)


def _checked(tree: Any, where: str, path: str, depth: int) -> Any:
    if depth > _DEPTH:
        raise StageError(f"{where} a tree deeper than {_DEPTH} levels", hint="flatten it")
    if isinstance(tree, Tensor):
        if tree.is_meta or tree.is_quantized or tree.layout.__repr__() != "torch.strided":
            raise StageError(f"{where} a tensor without plain data at {path or 'the root'}", hint="make it dense")
        return tree.detach().clone()
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, Mapping):
        items = cast("Mapping[object, Any]", tree)
        for key in items:
            if type(key) not in (str, int):
                raise StageError(f"{where} a dict with the key {key!r} at {path or 'the root'}", hint="use texts")
        return {key: _checked(value, where, f"{path}[{key!r}]", depth + 1) for key, value in items.items()}
    if type(tree) in (list, tuple):
        parts = [_checked(value, where, f"{path}[{i}]", depth + 1) for i, value in enumerate(cast("list[Any]", tree))]
        return parts if type(tree) is list else tuple(parts)
    raise StageError(
        f"{where} a {type(tree).__name__} at {path or 'the root'}",
        hint="carry tensors, numbers and texts in dicts, lists and tuples, such as optimizer.state_dict()",
    )


def packed(tree: Any, prefix: str) -> tuple[Any, dict[str, Tensor]]:
    """A tree that `checked` has let through as plain lists, and its tensors by name.

    Examples:
        >>> packed({1: (0.5, None)}, "carried")
        (['dict', [[1, ['tuple', [['value', 0.5], ['value', None]]]]]], {})

    Args:
        tree: the tree.
        prefix: what the names of its tensors begin with.
    """
    tensors: dict[str, Tensor] = {}

    def pack(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"{prefix}/{len(tensors)}"
            tensors[name] = node
            return ["tensor", name]
        if isinstance(node, dict | Flat):
            return ["dict", [[key, pack(value)] for key, value in cast("Mapping[Any, Any]", node).items()]]
        if isinstance(node, list | tuple):
            return [type(cast(object, node)).__name__, [pack(value) for value in cast("list[Any]", node)]]
        if isinstance(node, float) and not math.isfinite(node):
            return ["float", repr(node)]
        return ["value", node]

    return pack(tree), tensors


def unpacked(packed: Any, tensors: Mapping[str, Tensor], where: str) -> Any:
    """The tree that `packed` took apart.

    Examples:
        >>> unpacked(["list", [["value", 1], ["float", "inf"]]], {}, "a file")
        [1, inf]

    Args:
        packed: plain lists, read from a file.
        tensors: by name.
        where: the file, for errors.

    Raises:
        CheckpointError: it is no such thing.
    """
    node = cast("list[Any]", packed) if isinstance(packed, list) else []
    inside = cast("list[Any]", node[1]) if len(node) == 2 and isinstance(node[1], list) else []
    match node:
        case ["tensor", str(name)] if name in tensors:
            return tensors[name]
        case ["value", None | bool() | int() | float() | str() as value]:
            return value
        case ["float", str(text)] if text in _SPECIAL:
            return _SPECIAL[text]
        case ["list" | "tuple" as kind, list()]:
            parts = [unpacked(part, tensors, where) for part in inside]
            return parts if kind == "list" else tuple(parts)
        case ["dict", list()]:
            return _dict(inside, tensors, where)
        case _:
            raise CheckpointError(f"{where}: a carried tree has a node {str(cast(object, packed))[:60]!r}")


def _dict(pairs: list[Any], tensors: Mapping[str, Tensor], where: str) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for pair in pairs:
        match pair:
            case [str() | int() as key, value] if not isinstance(key, bool) and key not in found:
                found[key] = unpacked(value, tensors, where)
            case _:
                raise CheckpointError(f"{where}: a carried dict has an entry {str(pair)[:60]!r}")
    return found
