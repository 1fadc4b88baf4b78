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


def at(k: int, act: Callable[[str, tuple[Any, ...]], Any]) -> tuple[Event, list[str]]:
    """An event that acts at the k-th call, from 0; and the names of the calls that were made."""
    made = list[str]()

    def event(name: str, args: tuple[Any, ...]) -> Any:
        made.append(name)
        return act(name, args) if len(made) == k + 1 else None

    return event, made
