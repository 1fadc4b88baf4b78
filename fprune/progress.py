"""A progress bar for long work: shown where somebody watches, silent everywhere else."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")

DELAY = 2.0
"""Seconds of work before a bar appears."""


def progress(items: Iterable[T], what: str, unit: str = "batch", total: int | None = None) -> Iterator[T]:
    """Yield the items, with a bar on a terminal or in a notebook once that has taken two seconds.

    Examples:
        >>> list(progress([1, 2], "taylor"))
        [1, 2]

    Args:
        items: what is worked on, one after the other.
        what: stands in front of the bar.
        unit: what an item is called.
        total: how many there are, where `len(items)` does not say so.

    Yields:
        The items.
    """
    if not _watched():
        yield from items
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets the bar as text, and need not be told
        from tqdm import auto
    bar = cast(Any, auto).tqdm
    yield from bar(items, desc=what, unit=unit, total=total, delay=DELAY, leave=False)


def _watched() -> bool:
    """Whether somebody sees a bar: in a notebook, or where the error stream is a terminal."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    stream: Any = sys.stderr
    return (shell is not None and "IPKernelApp" in shell.config) or (stream is not None and bool(stream.isatty()))
