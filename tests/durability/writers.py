"""Writers that are wrong on purpose, each in one way: what the tests of durability must notice."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fprune.checkpoint import commit, disk, layout
from fprune.records import TaskResult
from fprune.store import folder as store
from fprune.tree import Flat


def in_place() -> None:
    """Writes into the round's own folder, without staging."""

    @contextmanager
    def staged(folder: Path, name: str, **_: Any) -> Iterator[Path]:
        disk.make_folder(folder / name)
        yield folder / name
        disk.sync_folder(folder / name)

    layout.staged = staged  # type: ignore[assignment]


def early_name() -> None:
    """Gives the round its name before its files are written."""

    @contextmanager
    def staged(folder: Path, name: str, **_: Any) -> Iterator[Path]:
        staging = folder / f"{commit.STAGING}early"
        disk.make_folder(staging)
        disk.rename(staging, folder / name)
        yield folder / name

    layout.staged = staged  # type: ignore[assignment]


def old_goes_first() -> None:
    """Deletes the rounds there are before the new one is committed."""
    keep = layout.keep

    def first_delete(folder: Path, *args: Any) -> Any:
        for path in sorted(folder.glob("it-*")):
            disk.rename(path, folder / f"{commit.TRASH}{path.name}")
            shutil.rmtree(folder / f"{commit.TRASH}{path.name}")
        return keep(folder, *args)

    store.keep = first_delete  # type: ignore[assignment]


def forgetful() -> None:
    """Keeps no optimizer state."""
    keep = layout.keep

    def without(folder: Path, result: TaskResult, *args: Any) -> Any:
        return keep(folder, result.replace(carried=Flat({})), *args)

    store.keep = without  # type: ignore[assignment]


WRITERS: dict[str, Callable[[], None]] = {
    "in place": in_place,
    "early name": early_name,
    "old goes first": old_goes_first,
    "forgetful": forgetful,
}
