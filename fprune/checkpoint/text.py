"""Strict JSON: what is written can be read back, and what is read is bounded and means one thing.

Python's own reader takes nan, keeps the last of two equal keys, and follows any nesting until the stack ends.
"""

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn, cast

from fprune.checkpoint.entry import Entry, damaged
from fprune.errors import CheckpointError

LIMIT = 16 * 2**20
"""How many bytes a text may have."""

DEPTH = 64
"""How deep lists and objects may stand in each other."""

SPARSE = 16
"""How many bytes a text has for each of its values, at least; one costs many times that once it is read."""

DIGITS = 4300
"""How many characters a number may have; Python refuses to convert longer ints, and would take very long."""

# Possessive quantifiers: a text of millions of characters leaves no trail to go back on.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_EVERY_OTHER_BYTE = bytes(set(range(256)) - set(b"[]{},"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}


def dumps(value: object, where: str, *, indent: int | None = None, limit: int = LIMIT, sort_keys: bool = True) -> bytes:
    """Write a value as JSON: keys sorted, so that equal values have equal bytes.

    Examples:
        >>> dumps({"b": [1, 0.5, None], "a": "text"}, "run.json")
        b'{"a":"text","b":[1,0.5,null]}'

    Args:
        value: Texts, ints, finite floats, booleans and None, in lists, tuples and dicts with texts as keys.
        where: The file it is for.
        indent: Break lines, with so many spaces for each level.
        limit: The most bytes that will be read back.
        sort_keys: False for a format whose keys have an order of their own.

    Returns:
        The text in UTF-8.

    Raises:
        CheckpointError: JSON has no such value, or `loads` would refuse it.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        _check(value, where, "", 0)
        text = json.dumps(
            value, allow_nan=False, sort_keys=sort_keys, ensure_ascii=False, indent=indent, separators=separators
        )
        data = text.encode()
    except (ValueError, TypeError) as error:  # a lone surrogate, or an int with more digits than Python will write
        raise damaged(where, f"cannot be written: {error}", hint=_PLAIN) from error
    _bounded(data, where, limit, _PLAIN)
    return data


def loads(data: bytes, where: str, *, limit: int = LIMIT) -> Entry:
    """Read JSON that means one thing, in bounded time and memory.

    Examples:
        >>> loads(b'{"i": 3}', "manifest.json")["i"].integer()
        3
        >>> loads(b'{"i": 3, "i": 4}', "manifest.json")
        Traceback (most recent call last):
        ...
        fprune.errors.CheckpointError: manifest.json: the key 'i' occurs twice
        hint: the file is damaged, or was not written by fprune

    Args:
        data: The bytes of the file.
        where: The file they are from.
        limit: The most bytes to accept.

    Returns:
        The value, which knows the file and its place in it.

    Raises:
        CheckpointError: It is no JSON in UTF-8, has nan or infinity, a key twice, or is too long, too deep or too wide.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise damaged(where, "begins with a byte order mark")
    _bounded(data, where, limit)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise damaged(where, "an escape that stands for half a character") from None
    except UnicodeDecodeError as error:
        raise damaged(where, f"not UTF-8: byte {data[error.start]:#04x} at {error.start}") from None
    except json.JSONDecodeError as error:
        raise damaged(where, f"not JSON: {error.msg} at character {error.pos}") from None
    except (_Refused, RecursionError) as error:
        raise damaged(where, str(error)) from None
    return Entry(value, where)


_PLAIN = "metrics and options are texts, finite numbers, booleans, None, lists and dicts of them"


class _Refused(ValueError):
    """What the reader's hooks raise; the file is named where it is caught."""


def _bounded(data: bytes, where: str, limit: int, hint: str = "") -> None:
    """Refuse what would cost too much, before anything is built from it."""
    if len(data) > limit:
        raise damaged(where, f"{len(data)} bytes of JSON, expected at most {limit}", hint=hint)
    marks = _STRING.sub(b"", data).translate(None, _EVERY_OTHER_BYTE)
    if len(marks) > limit // SPARSE:
        raise damaged(where, f"more than {limit // SPARSE} values", hint=hint)
    if max(accumulate(map(_STEP.__getitem__, marks)), default=0) > DEPTH:
        raise damaged(where, f"nested deeper than {DEPTH}", hint=hint)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"the key {twice[:80]!r} occurs twice")
    return record


def _integer(text: str) -> int:
    return int(_measured(text))


def _real(text: str) -> float:
    value = float(_measured(text))
    if not math.isfinite(value):
        raise _Refused(f"the number {text[:80]} is beyond the range of floats")
    return value


def _measured(text: str) -> str:
    if len(text) > DIGITS:
        raise _Refused(f"a number of {len(text)} characters, expected at most {DIGITS}")
    return text


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON")


def _check(value: object, where: str, path: str, depth: int) -> None:
    """Refuse what JSON has no form for, or what `json` would quietly write as something else."""
    if depth > DEPTH:
        raise damaged(where, f"{path[:80]}...: nested deeper than {DEPTH}", hint=_PLAIN)
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise _unwritable(where, path, f"the key {key!r} is no text")
            _check(item, where, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(cast("list[object]", value)):
            _check(item, where, f"{path}[{position}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _unwritable(where, path, f"{value} has no form in JSON")
    elif value is not None and not isinstance(value, str | int | float):
        raise _unwritable(where, path, f"{type(value).__name__} has no form in JSON")


def _unwritable(where: str, path: str, reason: str) -> CheckpointError:
    return damaged(f"{where}, {path}" if path else where, reason, hint=_PLAIN)
