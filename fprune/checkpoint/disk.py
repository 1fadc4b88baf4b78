"""The operating system as this package uses it; every call that can fail halfway goes through here.

A file is written once, under a name that nobody reads yet, and forced to the disk before it gets its own name.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import attrs

from fprune.errors import CheckpointError

DIGEST_BYTES = 32

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PIECE = 1 << 24


@final
@attrs.frozen
class Written:
    """A file's size and digest.

    Args:
        bytes: its size.
        blake2b: its BLAKE2b digest of 32 bytes, in hexadecimal digits.
    """

    bytes: int
    blake2b: str


def hasher() -> Any:
    """A fresh hash, as all digests on disk are made."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def write_file(path: Path, parts: Iterable[Any]) -> Written:
    """Write a new file and force it to the disk.

    Args:
        path: where; there must be nothing yet.
        parts: buffers of bytes, one after the other.

    Returns:
        Its size and digest.

    Raises:
        OSError: as the operating system says.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        digest, size = hasher(), 0
        # Hashing takes longer than writing into the page cache; both release the interpreter, so they overlap.
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(digest.update, b"")
            for part in parts:
                for piece in _pieces(memoryview(part)):
                    hashed.result()  # one piece at a time, so that no more than one is held back
                    hashed = beside.submit(digest.update, piece)
                    size += _write_all(descriptor, piece)
            hashed.result()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size, digest.hexdigest())


def _pieces(view: memoryview) -> Iterable[memoryview]:
    view = view.cast("B")
    return (view[at : at + _PIECE] for at in range(0, len(view), _PIECE))


def _write_all(descriptor: int, piece: memoryview) -> int:
    done = 0
    while done < len(piece):
        done += os.write(descriptor, piece[done:])
    return done


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make one folder; there must be nothing yet."""
    os.mkdir(path)


def rename(source: Path, target: Path) -> None:
    """Give a file or a folder another name; both names are in folders of one file system."""
    os.rename(source, target)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; what is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_regular(path: Path) -> tuple[int, int]:
    """Open a file for reading.

    Args:
        path: where.

    Returns:
        A descriptor, which the caller closes, and the size in bytes.

    Raises:
        CheckpointError: there is no such file, or it is something else, such as a link, a folder or a pipe.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CheckpointError(f"{path}: a symbolic link, expected a file of its own") from None
        raise CheckpointError(f"{path}: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: not a regular file")
    return descriptor, found.st_size


def read_file(path: Path, limit: int) -> bytes:
    """Read a whole small file.

    Args:
        path: where.
        limit: the most bytes it may have.

    Raises:
        CheckpointError: it is missing, is no regular file, is larger than that, or cannot be read.
    """
    descriptor, size = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if size > limit:
            raise CheckpointError(f"{path}: {size:,} bytes, expected at most {limit:,}")
        try:
            return file.read(limit + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error


def digest_file(path: Path) -> Written:
    """The size and digest of a file, read piece by piece.

    Raises:
        CheckpointError: it is missing, is no regular file, or cannot be read.
    """
    descriptor, _ = open_regular(path)
    digest, size = hasher(), 0
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
    return Written(size, digest.hexdigest())


def free_bytes(path: Path) -> int:
    """How many bytes fit on the disk that holds a folder."""
    return shutil.disk_usage(path).free


def failed(doing: str, path: Path, error: OSError, needed: int) -> CheckpointError:
    """The error that says what could not be written, and what that takes.

    Examples:
        >>> import errno
        >>> error = failed("round 3", Path("."), OSError(errno.EACCES, "Permission denied"), 10)
        >>> print(error.message)
        .: cannot keep round 3: Permission denied

    Args:
        doing: what was to be kept.
        path: where.
        error: what the operating system says.
        needed: how many bytes it takes.
    """
    message = f"{path}: cannot keep {doing}: {error.strerror or error}"
    if error.errno in _FULL:
        return no_room(doing, path, needed, message)
    return CheckpointError(message, hint="what was kept before is intact; make the folder writable and run again")


def no_room(doing: str, path: Path, needed: int, message: str = "") -> CheckpointError:
    """The error of a disk that is full, or is going to be.

    Examples:
        >>> "needs 1,024 bytes" in no_room("round 3", Path("."), 1024).message
        True

    Args:
        doing: what was to be kept.
        path: where.
        needed: how many bytes it takes.
        message: what happened, where it has happened.
    """
    told = message or f"{path}: too little room to keep {doing}"
    return CheckpointError(
        f"{told}; it needs {needed:,} bytes and {free_bytes(path):,} are free",
        hint="free some space, or keep the run elsewhere; what was kept before is intact",
    )
