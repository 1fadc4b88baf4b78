"""Commits: a folder of files appears under its name complete, or not at all.

    write into staging -> fsync each file -> fsync staging -> rename -> fsync the parent

A reader sees a folder before or after, never between; so does whoever comes after a crash or a power failure.
"""

import os
import socket
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fprune.checkpoint import disk
from fprune.checkpoint.disk import Written
from fprune.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock, and so no second writer is noticed
    fcntl = None

STAGING, TRASH, LOCK = ".tmp-", ".trash-", "lock"


def _private(folder: Path, kind: str) -> Path:
    return folder / f"{kind}{os.getpid()}-{uuid.uuid4().hex}"


@contextmanager
def staged(folder: Path, name: str, *, doing: str, needed: int) -> Generator[Path]:
    """A new folder to write into, which gets its name at the end of the block.

    Args:
        folder: where; it exists.
        name: the new folder's name.
        doing: what is kept, for errors.
        needed: about how many bytes it takes, for errors.

    Raises:
        CheckpointError: it could not be done; nothing of it is left.
    """
    staging = _private(folder, STAGING)
    with _whole(staging, folder, doing, needed):
        disk.make_folder(staging)
        yield staging
        disk.sync_folder(staging)
        disk.rename(staging, folder / name)
    # From here on it is there; what can still fail is that it survives a power failure.
    try:
        disk.sync_folder(folder)
    except OSError as error:
        raise disk.failed(doing, folder, error, needed) from error


@contextmanager
def _whole(staging: Path, folder: Path, doing: str, needed: int) -> Generator[None]:
    """Leave nothing of what could not be finished."""
    try:
        yield
    except BaseException as error:
        disk.remove(staging)
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise disk.failed(doing, folder, error, needed) from error
        raise


def place(folder: Path, name: str, parts: Iterable[Any], *, doing: str, needed: int) -> Written:
    """Put one file in place, as `staged` does a folder.

    Args:
        folder: where; it exists.
        name: the file's name.
        parts: buffers of bytes.
        doing: what is kept, for errors.
        needed: about how many bytes it takes, for errors.

    Returns:
        Its size and digest.

    Raises:
        CheckpointError: it could not be done; nothing of it is left.
    """
    staging = _private(folder, STAGING)
    with _whole(staging, folder, doing, needed):
        found = disk.write_file(staging, parts)
        disk.rename(staging, folder / name)
        disk.sync_folder(folder)
    return found


def discard(folder: Path, name: str) -> None:
    """Take a committed folder away: first its name, then its contents, so that nobody sees half of it.

    Raises:
        CheckpointError: it could not be done.
    """
    gone = _private(folder, TRASH)
    try:
        disk.rename(folder / name, gone)
    except OSError as error:
        raise disk.failed(f"{name} out of the way", folder, error, 0) from error
    disk.remove(gone)


def sweep(folder: Path) -> None:
    """Remove what commits left that did not come to their end; call it under the lock."""
    for path in folder.iterdir():
        if path.name.startswith((STAGING, TRASH)):
            disk.remove(path)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Be the only writer of a folder, until the end of the block or of the process.

    Raises:
        CheckpointError: another one writes; names its process and host.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise disk.failed("a run", folder, error, 0) from error
    _HELD.add(descriptor)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                raise CheckpointError(
                    f"{folder}: another run writes here ({holder or 'unknown process'})",
                    hint="wait for it, stop it, or keep this run in another folder; "
                    "a stream that is no longer iterated lets go when it is deleted",
                ) from None
            except OSError as error:  # a file system without locks
                raise disk.failed("a run", folder, error, 0) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            raise disk.failed("a run", folder, error, 0) from error
        yield
    finally:
        if descriptor in _HELD:  # not in a forked child, which has let go
            _HELD.discard(descriptor)
            os.close(descriptor)


_HELD: set[int] = set()
"""Descriptors of the locks of this process."""


def _let_go() -> None:
    """Close the locks of the parent: a worker that outlives it must not hold them for a dead process."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
