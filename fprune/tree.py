"""Flat trees of tensors, sorted by name, and what can be asked of any tree: equality, digests, sizes, seeds."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, final

import attrs
import optree
from torch import Tensor, nn

from fprune.equality import field_names
from fprune.equality import same as same
from fprune.errors import ModelError
from fprune.hashing import digest as digest
from fprune.hashing import fold_in as fold_in
from fprune.hashing import generator as generator

NAMESPACE = "fprune"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")


@final
@attrs.frozen(init=False, eq=False, repr=False)
class Flat(Mapping[str, T_co], Generic[T_co]):
    """An immutable mapping from names to values, sorted by name.

    Two of them are equal when their names and values are; tensors compare by bytes, dtype and shape.

    Examples:
        >>> flat = Flat({"b": 2, "a": 1})
        >>> flat
        Flat(a=1, b=2)
        >>> flat.map(lambda value: 10 * value) == Flat([("a", 10), ("b", 20)])
        True

    Args:
        data: A mapping, or pairs of name and value.

    Raises:
        ModelError: A name is not a string, or occurs twice.
    """

    _data: Mapping[str, T_co]

    def __init__(self, data: Mapping[str, T_co] | Iterable[tuple[str, T_co]] = ()) -> None:
        object.__setattr__(self, "_data", data._data if isinstance(data, Flat) else _sorted(data))

    def __getitem__(self, name: str) -> T_co:
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, name: object) -> bool:
        return name in self._data

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Flat):
            return same(self._data, cast("Flat[Any]", other)._data)
        return same(self._data, cast("dict[Any, Any]", other)) if isinstance(other, dict) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # values may be tensors

    def __repr__(self) -> str:
        return f"Flat({', '.join(f'{name}={brief(value)}' for name, value in self.items())})"

    def map(self, fn: Callable[[T_co], S]) -> "Flat[S]":
        """Apply `fn` to every value."""
        return Flat({name: fn(value) for name, value in self._data.items()})

    def map_with_name(self, fn: Callable[[str, T_co], S]) -> "Flat[S]":
        """Apply `fn` to every name and value."""
        return Flat({name: fn(name, value) for name, value in self._data.items()})

    def select(self, names: Iterable[str]) -> "Flat[T_co]":
        """Keep only `names`; a name that is absent is a KeyError."""
        return Flat({name: self._data[name] for name in names})

    def without(self, names: Iterable[str]) -> "Flat[T_co]":
        """Drop `names`; a name that is absent is ignored."""
        dropped = frozenset(names)
        return Flat({name: value for name, value in self._data.items() if name not in dropped})

    def merged(self, other: Mapping[str, S]) -> "Flat[T_co | S]":
        """Join two mappings; where both have a name, `other` wins."""
        return Flat({**self._data, **other})


def _sorted(data: Mapping[str, T] | Iterable[tuple[str, T]]) -> dict[str, T]:
    pairs = list(cast("Mapping[str, T]", data).items()) if isinstance(data, Mapping) else list(data)
    for name, _ in pairs:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ModelError(f"expected a name, got {name!r} of type {type(name).__name__}", hint="names are strings")
    result = dict(sorted(pairs, key=operator.itemgetter(0)))
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in result if names.count(name) > 1)
        raise ModelError(f"{twice!r} occurs twice", hint="every name has one value")
    return result


def brief(value: object) -> str:
    """Show a value in a few characters; a tensor by dtype and shape.

    Examples:
        >>> import torch
        >>> brief(torch.zeros(2, 3))
        'float32[2, 3]'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{[*value.shape]}"
    return repr(value)


def map(fn: Callable[..., Any], record: T, *rest: Any) -> T:
    """Apply `fn` to every leaf of registered records, dicts, lists and tuples.

    Examples:
        >>> map(lambda leaf: leaf + 1, {"a": 1, "b": (2, 3)})
        {'a': 2, 'b': (3, 4)}

    Args:
        fn: Takes one leaf of each tree.
        record: The tree whose structure the result has.
        rest: Further trees of the same structure.

    Returns:
        A tree like `record`.
    """
    return cast(T, optree.tree_map(fn, cast(Any, record), *rest, namespace=NAMESPACE))


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if not value.is_meta:
            yield value
    elif isinstance(value, nn.Module):
        yield from (tensor for tensor in (*value.parameters(), *value.buffers()) if not tensor.is_meta)
    elif (fields := field_names(value)) is not None:
        for key in fields:
            yield from _leaves(getattr(value, key))
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _leaves(item)
    elif isinstance(value, tuple | list):
        for item in cast("list[Any]", value):
            yield from _leaves(item)


def nbytes(tree: object) -> int:
    """Add up the bytes of all tensors in a tree; a tensor that occurs twice counts twice, meta tensors do not.

    Examples:
        >>> import torch
        >>> nbytes({"w": torch.zeros(2, 3), "mask": torch.ones(2, 3, dtype=torch.bool)})
        30
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in _leaves(tree))


def count(tree: object) -> int:
    """Add up the elements of all tensors in a tree, as `nbytes` does.

    Examples:
        >>> import torch
        >>> count((torch.zeros(2, 3), {"b": torch.zeros(3)}))
        9
    """
    return sum(tensor.numel() for tensor in _leaves(tree))
