"""Argument trees: what operators are called with and models return, nested in lists, tuples and dicts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast


def children(tree: Any) -> Iterable[tuple[Any, Any]] | None:
    """Key and value of each entry of a list, tuple or dict; None for anything else."""
    if isinstance(tree, (list, tuple)):
        return enumerate(cast("Sequence[Any]", tree))
    if isinstance(tree, dict):
        return cast("dict[Any, Any]", tree).items()
    return None


def entries(tree: Any) -> Iterator[Any]:
    """Everything in a tree that is not a list, tuple or dict, depth first."""
    inside = children(tree)
    if inside is None:
        yield tree
    else:
        for _, item in inside:
            yield from entries(item)


def rebuilt(tree: Any, fn: Callable[[Any], Any]) -> Any:
    """The tree with `fn` applied to each entry; a dict of another class, which may not be built alike, is an entry."""
    if type(tree) is not dict and not isinstance(tree, (list, tuple)):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: rebuilt(item, fn) for key, item in cast("dict[Any, Any]", tree).items()}
    items = [rebuilt(item, fn) for item in cast("Sequence[Any]", tree)]
    if isinstance(tree, list):
        return items
    kind: Any = type(cast("tuple[Any, ...]", tree))
    return kind(*items) if hasattr(kind, "_fields") else tuple(items)


def listed(value: Any) -> list[Any]:
    """A size argument as a list: a single number stands for a list of one."""
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
