"""JSON that carries its own digest, so that one changed letter is noticed."""

from fprune.checkpoint import disk
from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.text import dumps, loads

__all__ = ["LIMIT", "sealed", "unsealed"]

LIMIT = 64 * 2**20
"""How many bytes a sealed record may have."""

_BEFORE, _BETWEEN, _AFTER = b'{"blake2b":"', b'","record":', b"}\n"


def sealed(record: object, where: str) -> bytes:
    """The bytes of a record with its digest.

    Examples:
        >>> text = sealed({"i": 3}, "manifest.json")
        >>> unsealed(text, "manifest.json")["i"].integer()
        3

    Args:
        record: plain dicts, lists, texts and numbers.
        where: the file, for errors.
    """
    text = dumps(record, where, limit=LIMIT)
    return _BEFORE + disk.digest_of(text).encode() + _BETWEEN + text + _AFTER


def unsealed(data: bytes, where: str) -> Entry:
    """The record in some bytes.

    Args:
        data: what a file holds.
        where: the file, for errors.

    Raises:
        CheckpointError: it is not what `sealed` wrote.
    """
    digits = 2 * disk.DIGEST_BYTES
    start = len(_BEFORE) + digits + len(_BETWEEN)
    text, digest = data[start : -len(_AFTER)], data[len(_BEFORE) : len(_BEFORE) + digits]
    if data != _BEFORE + digest + _BETWEEN + text + _AFTER:
        raise damaged(where, "it does not begin and end as a sealed record does")
    if digest != disk.digest_of(text).encode():
        raise damaged(where, "its digest does not fit its contents")
    return loads(text, where, limit=LIMIT)
