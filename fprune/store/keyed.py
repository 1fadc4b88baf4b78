"""A value that the user has given a key, because its own content cannot be hashed, or should not be."""

import functools
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from fprune.errors import ConfigTypeError

__all__ = ["Keyed", "keyed"]

T = TypeVar("T")


class Keyed:
    """A value with a key; made by `keyed`. Two of them are equal when their keys are."""

    def __init__(self, value: object, key: str) -> None:
        self._value, self._key = value, key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for these before there is a value
            raise AttributeError(name)
        return getattr(self._value, name)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Keyed) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        name = getattr(self._value, "__name__", f"<{type(self._value).__name__}>")
        return f"keyed({name}, {self._key!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return keyed, (self._value, self._key)


def keyed(value: T, key: str) -> T:
    """Give a value a key, for a cache of stages to know it by; it is used like the value itself.

    A cache knows a function by its code and data by its bytes. Of a DataLoader, or of an object that opens files, it
    cannot tell whether it is the one of last time; the key tells. Whoever changes the data changes the key. A function
    with a key is known by that alone, so that editing it re-runs nothing.

    Examples:
        >>> from torch.utils.data import DataLoader
        >>> loader = keyed(DataLoader(list(range(6)), batch_size=2), "six-v1")
        >>> loader
        keyed(<DataLoader>, 'six-v1')
        >>> [batch.tolist() for batch in loader], len(loader), loader.batch_size
        ([[0, 1], [2, 3], [4, 5]], 3, 2)
        >>> keyed(abs, "absolute-v1")(-3), callable(loader)
        (3, False)

    Args:
        value: a function, a loader, or any other object that a stage is given.
        key: a text that stands for its content, such as `"cifar10-train-v1"`.

    Returns:
        The value in a wrapper: it can be called, iterated, indexed and measured as far as the value can be, equals
        another one with the same key, and has the attributes of the value.

    Raises:
        ConfigTypeError: the key is not a text, or is empty; or the value is an iterator, which can be read only once.
    """
    if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(f"keyed: key: expected a text, got {key!r}", hint='keyed(loader, "cifar10-train-v1")')
    if hasattr(type(value), "__next__"):
        raise ConfigTypeError(
            f"keyed: value: a {type(value).__name__} can be read only once, so one key would stand for many values",
            hint="pass what it was made from: a list, or a DataLoader",
        )
    inner: object = value._value if isinstance(value, Keyed) else value  # pyright: ignore[reportPrivateUsage]
    # Classes of classes are left aside: every class can be called itself.
    able = tuple(name for name in _ABILITIES if any(name in vars(kind) for kind in type(inner).__mro__))
    return cast(T, _kind(able)(inner, key))


def key_of(value: Keyed) -> str:
    """The key that the user gave."""
    return value._key  # pyright: ignore[reportPrivateUsage]


def _forwarded(name: str) -> Any:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _ABILITIES[name](self._value, *args, **kwargs)

    return forward


def _call(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value(*args, **kwargs)


def _item(value: Any, index: Any) -> Any:
    return value[index]


def _contains(value: Any, item: Any) -> bool:
    return item in value


_ABILITIES: dict[str, Any] = {
    "__call__": _call,
    "__iter__": iter,
    "__len__": len,
    "__getitem__": _item,
    "__contains__": _contains,
}


@functools.cache
def _kind(able: Iterable[str]) -> type[Keyed]:
    """The class of wrappers for values that can do this: `callable` and `isinstance(x, Iterable)` look at classes."""
    return type("Keyed", (Keyed,), {name: _forwarded(name) for name in able})
