"""JSON that carries its own digest, so that one changed letter is noticed."""

from fprune.checkpoint import disk
from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.text import dumps, loads

__all__ = ["sealed", "unsealed"]

_LIMIT = 64 * 2**20


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
    digest = disk.digest_of(dumps(record, where, limit=_LIMIT))
    return dumps({"blake2b": digest, "record": record}, where, indent=1, limit=_LIMIT) + b"\n"


def unsealed(data: bytes, where: str) -> Entry:
    """The record in some bytes.

    Args:
        data: what a file holds.
        where: the file, for errors.

    Raises:
        CheckpointError: it is not what `sealed` wrote.
    """
    found = loads(data, where, limit=_LIMIT).only("blake2b", "record")
    record = found["record"]
    if found["blake2b"].text() != disk.digest_of(dumps(record.value, where, limit=_LIMIT)):
        raise damaged(where, "its digest does not fit its contents")
    if sealed(record.value, where) != data:
        raise damaged(where, "its spelling is not the one that is written")
    return record
