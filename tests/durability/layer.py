"""An operating system between the library and the real one: it counts calls, and fails, stops or records at one."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fprune.checkpoint import disk

CALLS = ("open", "write", "fsync", "rename", "mkdir", "rmtree")

Event = Callable[[str, tuple[Any, ...]], Any]
"""Told of each call before it happens. Returns None to let it happen, else a function to call in its place."""


class Layer:
    """Stands for a module, and tells of some calls before it makes them."""

    def __init__(self, module: Any, event: Event) -> None:
        self._module, self._event = module, event

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            instead = self._event(name, args)
            return real(*args, **kwargs) if instead is None else instead()

        return call


def install(event: Event) -> None:
    """Put a layer under the library, in a process that ends with it."""
    disk.os, disk.shutil = Layer(os, event), Layer(shutil, event)  # type: ignore[attr-defined]


@contextmanager
def installed(event: Event) -> Iterator[None]:
    """Put a layer under the library for a while."""
    install(event)
    try:
        yield
    finally:
        disk.os, disk.shutil = os, shutil  # type: ignore[attr-defined]


class Calls:
    """Counts calls from the first of one kind on, and acts at the k-th.

    Args:
        k: which call, from 0; -1 for none.
        act: what to do instead of it; may raise.
        start: the name of the call that begins the counting; the first of all when it is empty.
    """

    def __init__(self, k: int = -1, act: Event = lambda name, args: None, start: str = "") -> None:
        self.k, self.act, self.start = k, act, start
        self.made = list[str]()

    def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
        if not self.made and self.start not in ("", name):
            return None
        self.made.append(name)
        return self.act(name, args) if len(self.made) == self.k + 1 else None
