"""The operating system as this package uses it; every call that writes what is kept goes through here.

A file is written once, under a name that nobody reads yet, and forced to the disk before it gets its own name.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import attrs

from fprune.checkpoint.entry import damaged
from fprune.errors import CheckpointError

DIGEST_BYTES = 32

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PIECE = 1 << 22
_HASHING = min(4, os.cpu_count() or 1)


@final
@attrs.frozen
class Written:
    """A file's size and digest.

    Args:
        bytes: its size.
        blake2b: the BLAKE2b digest, in hexadecimal digits, of the digests of its pieces of 4 MiB; 32 bytes each.
    """

    bytes: int
    blake2b: str


def _hash(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digest_of(data: bytes) -> str:
    """The BLAKE2b digest of a few bytes, as manifests name each other by it.

    Examples:
        >>> digest_of(b"")[:8]
        '0e5751c0'
    """
    return _hash(data).hex()


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
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        size = sum(_write_all(descriptor, memoryview(part).cast("B")) for part in parts)
        # Hashing takes longer than the disk does, and releases the interpreter: the two go on beside each other.
        with _digests(descriptor, size) as digests:
            os.fsync(descriptor)
            return Written(size, _together(digests))
    finally:
        os.close(descriptor)


@contextmanager
def _digests(descriptor: int, size: int) -> Generator[Iterator[bytes]]:
    """The digests of a file's pieces, made by a few threads."""

    def digest(at: int) -> bytes:
        return _hash(os.pread(descriptor, _PIECE, at))

    with ThreadPoolExecutor(_HASHING) as beside:
        yield beside.map(digest, range(0, size, _PIECE))


def _together(digests: Iterable[bytes]) -> str:
    return digest_of(b"".join(digests))


def _write_all(descriptor: int, piece: memoryview) -> int:
    done = 0
    while done < len(piece):
        written = os.write(descriptor, piece[done:])
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += written
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


def make_folders(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet, so that a power failure does not undo it."""
    for folder in (*reversed(path.parents), path):
        if folder.is_dir():
            continue
        try:
            make_folder(folder)
        except FileExistsError:
            if not folder.is_dir():  # it may have been made just now by another process
                raise
        sync_folder(folder.parent)


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
            raise damaged(str(path), "a symbolic link, expected a file of its own") from None
        raise damaged(str(path), error.strerror or str(error)) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise damaged(str(path), "not a regular file")
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
            raise damaged(str(path), f"{size:,} bytes, expected at most {limit:,}")
        try:
            return file.read(limit + 1)
        except OSError as error:
            raise damaged(str(path), error.strerror or str(error)) from error


def digest_file(path: Path) -> Written:
    """The size and digest of a file, read piece by piece.

    Raises:
        CheckpointError: it is missing, is no regular file, or cannot be read.
    """
    descriptor, size = open_regular(path)
    try:
        with _digests(descriptor, size) as digests:
            return Written(size, _together(digests))
    except OSError as error:
        raise damaged(str(path), error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def digest_parts(parts: Iterable[Any]) -> Written:
    """The size and digest that a file of these buffers would have."""
    size, held, digests = 0, bytearray(), list[bytes]()

    for part in parts:
        view = memoryview(part).cast("B")
        size += len(view)
        while len(held) + len(view) >= _PIECE:
            room = _PIECE - len(held)
            held += view[:room]
            digests.append(_hash(held))
            held, view = bytearray(), view[room:]
        held += view
    if held:
        digests.append(_hash(held))
    return Written(size, _together(digests))


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
