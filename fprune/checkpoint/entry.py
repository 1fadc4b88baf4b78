"""A value that was read from a file and knows where it stands, so that whatever is wrong with it can be named."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar, cast, final

import attrs

from fprune.errors import CheckpointError, FpruneError, close_matches

T = TypeVar("T")

_NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def damaged(where: str, reason: str, *, hint: str = "") -> CheckpointError:
    """Make the error that a file on disk causes: which file, where in it, and what is wrong.

    Examples:
        >>> print(damaged("it-000003/manifest.json", "0 bytes"))
        it-000003/manifest.json: 0 bytes
        hint: the file is damaged, or was not written by fprune

    Args:
        where: the file, and the place in it.
        reason: what was found, and what was expected.
        hint: what to do about it, where more can be said than that the file is damaged.

    Returns:
        The error, to be raised.
    """
    told = _short(reason, 500)  # whoever damaged the file may also have made its names long
    return CheckpointError(f"{where}: {told}", hint=hint or "the file is damaged, or was not written by fprune")


def number(value: float) -> float | str:
    """Write a number as JSON can hold it: infinities and nan as texts, which `Entry.number` reads.

    Examples:
        >>> number(0.5), number(float("-inf")), number(3)
        (0.5, '-inf', 3)
    """
    return value if value - value == 0 else str(float(value))


@final
@attrs.frozen
class Entry:
    """A value of a JSON file, and where it stands.

    Every accessor returns what it names, or raises a `CheckpointError` that says where the value stands, what it is and
    what was expected; none raises anything else. Accessors are functions, so `Entry.integer` can be handed to another.

    Examples:
        >>> entry = Entry({"i": 3, "files": {"a": [1, 2]}, "score": None}, "manifest.json")
        >>> entry["i"].integer(), entry["files"]["a"].each(Entry.integer), entry.maybe("score", Entry.number)
        (3, (1, 2), None)
        >>> entry["files"]["a"].text()
        Traceback (most recent call last):
        ...
        fprune.errors.CheckpointError: manifest.json, files.a: expected a text, got a list of 2
        hint: the file is damaged, or was not written by fprune

    Args:
        value: what the JSON stands for.
        file: the file it was read from.
        path: the keys that lead to it, joined by dots.
    """

    value: object
    file: str
    path: str = ""

    def __getitem__(self, key: str) -> "Entry":
        """The entry under a key that must be there."""
        record = self._record()
        if key not in record:
            self.refuse(f"there is no {key!r}. {close_matches(key, record)}".rstrip(" ."))
        return self._inside(key, record[key])

    def maybe(self, key: str, read: Callable[["Entry"], T]) -> T | None:
        """What `read` makes of the entry under a key, or None when it is absent or null."""
        value = self._record().get(key)
        return None if value is None else read(self._inside(key, value))

    def each(self, read: Callable[["Entry"], T]) -> tuple[T, ...]:
        """What `read` makes of every item of a list."""
        if not isinstance(self.value, list):
            self._expected("a list")
        items = cast("list[object]", self.value)
        return tuple(read(Entry(item, self.file, f"{self.path}[{i}]")) for i, item in enumerate(items))

    def items(self) -> Iterator[tuple[str, "Entry"]]:
        """The keys and entries of an object, in the order of the file."""
        return ((key, self._inside(key, value)) for key, value in self._record().items())

    def mapped(self, read: Callable[["Entry"], T]) -> dict[str, T]:
        """What `read` makes of every value of an object, by key."""
        return {key: read(entry) for key, entry in self.items()}

    def only(self, *keys: str) -> "Entry":
        """The object itself, when it has no keys but these."""
        for key in self._record():
            if key not in keys:
                self.refuse(f"unknown {key!r}, expected {', '.join(map(repr, keys))}")
        return self

    def integer(self, low: int | None = None, high: int | None = None) -> int:
        """An int within bounds, both included; True and False are none."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int):
            self._expected("an int")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            self._expected(f"an int of {bounds}")
        return value

    def number(self) -> float:
        """A number as the function `number` writes it; an int stays an int."""
        value = self.value
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._expected("a number")
        return value

    def flag(self) -> bool:
        """True or False."""
        if not isinstance(self.value, bool):
            self._expected("true or false")
        return self.value

    def text(self, *choices: str) -> str:
        """A text; one of the choices, when there are any."""
        value = self.value
        if not isinstance(value, str):
            self._expected("a text")
        if choices and value not in choices:
            self._expected(f"one of {', '.join(map(repr, choices))}")
        return value

    def made(self, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call `make` with values that were read here; if it refuses them, the file is what is wrong.

        Examples:
            >>> from fprune.config import Config
            >>> entry = Entry(1.5, "run.json", "config.sparsity")
            >>> entry.made(Config, entry.number())
            Traceback (most recent call last):
            ...
            fprune.errors.CheckpointError: run.json, config.sparsity: ...
        """
        try:
            return make(*args, **kwargs)
        except CheckpointError:
            raise
        except FpruneError as error:
            raise self._error(error.message) from error
        except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
            raise self._error(f"{type(error).__name__}: {error}") from error

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that names this place and gives a reason."""
        raise self._error(reason)

    def _error(self, reason: str) -> CheckpointError:
        return damaged(f"{self.file}, {_short(self.path)}" if self.path else self.file, reason)

    def _expected(self, what: str) -> NoReturn:
        self.refuse(f"expected {what}, got {_shown(self.value)}")

    def _record(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            self._expected("an object")
        return cast("dict[str, object]", self.value)

    def _inside(self, key: str, value: object) -> "Entry":
        return Entry(value, self.file, f"{self.path}.{key}" if self.path else key)


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        return f"{kind} of {len(cast('list[object]', value))}"
    if isinstance(value, int) and abs(value) >= 10**40:  # longer ones have no decimal form in Python
        return f"an int of {value.bit_length()} bits"
    return "null" if value is None else _short(repr(value))


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
