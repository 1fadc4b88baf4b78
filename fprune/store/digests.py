"""Digests of what does not change, each computed once."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from fprune.hashing import digest

__all__ = ["Digests"]


@final
class Digests:
    """Digests of tensors, skeletons and records: computed once, as long as the object lives and is not written to."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int, str]] = {}

    def of(self, value: Any, compute: Callable[[Any], str]) -> str:
        """The digest of one object, from memory where it is known."""
        found = self._known.get(id(value))
        if found is not None and found[0]() is value and found[1] == _version(value):
            return found[2]
        return self.know(value, compute(value))

    def know(self, value: Any, computed: str) -> str:
        """Remember the digest of an object."""
        gone = functools.partial(_forget, self._known, id(value))
        self._known[id(value)] = (weakref.ref(value, gone), _version(value), computed)
        return computed

    def tensor(self, value: Tensor) -> str:
        """The digest of a tensor's dtype, shape and bytes."""
        return self.of(value, digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Digests, ()  # what is in memory here is not there


def _version(value: Any) -> int:
    """How often an object was written to."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _forget(known: dict[int, Any], number: int, reference: object) -> None:
    if number in known and known[number][0] is reference:
        del known[number]
