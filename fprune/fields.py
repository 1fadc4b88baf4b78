"""Reading what users write in a rule: fractions, names, counts, flags; each refusal says what to write instead."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite, isnan
from numbers import Integral, Real
from typing import cast

from torch import Tensor

from fprune.errors import ConfigError, ConfigTypeError, close_matches
from fprune.tree import Flat

__all__ = ["BUDGETS", "ROLES", "budget", "cap", "count", "flag", "fraction", "granularity", "names", "ratio"]

ROLES = ("head", "head_dim", "channel")
"""Kinds of units that a rule can name."""
BUDGETS = ("flops", "params")
"""What a budget can be counted in."""


def ratio(value: object, what: str, *, closed: bool = False) -> float:
    """Read a fraction: a real number in `[0, 1)`, or in `(0, 1]` when `closed`.

    Examples:
        >>> ratio(0, "sparsity"), ratio(0.5, "sparsity"), ratio(1, "cap", closed=True)
        (0.0, 0.5, 1.0)
        >>> ratio(1.5, "sparsity")
        Traceback (most recent call last):
        fprune.errors.ConfigError: sparsity: expected a fraction in [0, 1), got 1.5
        hint: 1.5 % is 0.015

    Args:
        value: what the user wrote.
        what: the name to put in front of an error, for example `sparsity`.
        closed: accept 1 and refuse 0, as an upper bound does.

    Returns:
        The value as a float.

    Raises:
        ConfigTypeError: a bool, a string, a tensor, an int other than the legal ends.
        ConfigError: NaN, infinite, or outside the range.
    """
    legal = "(0, 1]" if closed else "[0, 1)"
    expected = f"{what}: expected a fraction in {legal}, got"
    if isinstance(value, bool):
        raise ConfigTypeError(f"{expected} {value} (bool)", hint="write the fraction to remove, for example 0.5")
    if isinstance(value, str):
        raise ConfigTypeError(
            f"{expected} {value!r} (str)", hint="leave out the quotes and write a number, such as 0.5"
        )
    if isinstance(value, Tensor):
        raise ConfigTypeError(f"{expected} a Tensor", hint="take the number out of it with .item()")
    if not isinstance(value, Real):
        raise ConfigTypeError(f"{expected} {value!r} ({type(value).__name__})", hint="write a number, such as 0.5")
    number = float(value)
    if isinstance(value, Integral) and number not in ((1.0,) if closed else (0.0,)):
        raise ConfigTypeError(f"{expected} the int {int(value)}", hint=_int_hint(int(value)))
    if isnan(number):
        raise ConfigError(f"{expected} NaN", hint="look for a 0/0 where this value is computed")
    if not isfinite(number) or number > 1.0:
        percent = f"{number:g} % is {number / 100:g}" if 1.0 < number <= 100.0 else "0.5 removes one half"
        raise ConfigError(f"{expected} {number:g}", hint=percent)
    if number < 0.0:
        raise ConfigError(f"{expected} {number:g}", hint="it is the fraction to remove; 0 removes nothing")
    if number == 1.0 and not closed:
        raise ConfigError(
            f"{expected} 1.0",
            hint="no layer is ever emptied: ask for less, such as 0.99, or take the layer out of the network",
        )
    if number == 0.0 and closed:
        raise ConfigError(f"{expected} 0.0", hint="exclude=True leaves a layer alone")
    return number + 0.0  # -0.0 becomes 0.0, so that equal rules print alike


def _int_hint(value: int) -> str:
    counted = "an int reads like a count, and sparsity is a ratio: 5 of 64 channels is 5 / 64"
    return f"{value} % is {value / 100:g}; {counted}" if 1 <= value < 100 else counted


def names(key: str) -> Callable[[list[str] | tuple[str, ...]], tuple[str, ...]]:
    """A converter that reads a list of names."""

    def convert(value: list[str] | tuple[str, ...]) -> tuple[str, ...]:
        return _read_names(key, value)

    return convert


def _read_names(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigTypeError(f"{key}: expected a list of names, got {value!r} (str)", hint=f"write [{value!r}]")
    if not isinstance(value, list | tuple):
        found = f"{key}: expected a list or tuple of names, got {type(value).__name__}"
        raise ConfigTypeError(found, hint=f"{key}=['...']")
    return tuple(_read_name(key, name) for name in cast("Iterable[object]", value))


def _read_name(key: str, name: object) -> str:
    if isinstance(name, type):
        found = f"{key}: expected names, got the class {name.__name__}"
        raise ConfigTypeError(found, hint=f"name the class: {name.__name__!r}")
    if not isinstance(name, str):
        found = f"{key}: expected names, got {name!r} ({type(name).__name__})"
        raise ConfigTypeError(found, hint="names are strings")
    if not name:
        raise ConfigError(f"{key}: expected names, got an empty string", hint="leave it out")
    return name


def fraction(key: str) -> Callable[[float | None], float | None]:
    """A converter that reads a fraction in `[0, 1)`; None stays None."""

    def convert(value: float | None) -> float | None:
        return None if value is None else ratio(value, key)

    return convert


def cap(value: "float | Mapping[str, float] | None") -> "float | Flat[float] | None":
    """Read an upper bound, one for all layers or one for each name; None stays None."""
    key = "max_sparsity_per_layer"
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return ratio(value, key, closed=True)
    for name in cast("Mapping[object, object]", value):
        if not isinstance(name, str):
            raise ConfigTypeError(f"{key}: expected layer names as keys, got {name!r}", hint="{'conv1': 0.5}")
    if not value:
        raise ConfigError(f"{key}: the mapping is empty", hint="leave it out, or write {'conv1': 0.5}")
    return Flat({name: ratio(limit, f"{key}[{name!r}]", closed=True) for name, limit in value.items()})


def budget(value: "Mapping[str, float] | None") -> "Flat[float] | None":
    """Read fractions of the whole model's FLOPs and parameters; None stays None.

    Examples:
        >>> budget({"flops": 0.5})
        Flat(flops=0.5)
        >>> budget({"flop": 0.5})
        Traceback (most recent call last):
        fprune.errors.ConfigError: budget: expected 'flops' or 'params' as keys, got 'flop'
        hint: Did you mean 'flops'...

    Args:
        value: what the user wrote.

    Returns:
        The same, with fractions in `[0, 1)`.

    Raises:
        ConfigTypeError: it is no mapping, or a fraction is not a number.
        ConfigError: it is empty, has an unknown key, or a fraction out of range.
    """
    return None if value is None else _read_budget(value)


def _read_budget(value: object) -> "Flat[float]":
    example = "budget={'flops': 0.5} removes half of the model's FLOPs"
    if not isinstance(value, Mapping):
        found = f"budget: expected a mapping, got {value!r} ({type(value).__name__})"
        raise ConfigTypeError(found, hint=example)
    entries = cast("Mapping[object, object]", value)
    if not entries:
        raise ConfigError("budget: the mapping is empty", hint=example)
    for key in entries:
        if key not in BUDGETS:
            hint = close_matches(key, BUDGETS) if isinstance(key, str) else ""
            raise ConfigError(f"budget: expected 'flops' or 'params' as keys, got {key!r}", hint=hint or example)
    return Flat({str(key): ratio(part, f"budget[{key!r}]") for key, part in entries.items()})


def flag(key: str) -> Callable[[bool], bool]:
    """A converter that reads True or False, and nothing that is only like them."""

    def convert(value: bool) -> bool:
        return _read_flag(key, value)

    return convert


def _read_flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        found = f"{key}: expected True or False, got {value!r} ({type(value).__name__})"
        raise ConfigTypeError(found, hint=f"{key}=True")
    return value


def count(key: str) -> Callable[[int], int]:
    """A converter that reads a number of units, 1 or more."""

    def convert(value: int) -> int:
        return _read_count(key, value)

    return convert


def _read_count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        found = f"{key}: expected a number of units, got {value!r} ({type(value).__name__})"
        raise ConfigTypeError(found, hint=f"{key}=8")
    if int(value) < 1:
        raise ConfigError(f"{key}: expected 1 or more units, got {int(value)}", hint="leave it out, or write 8")
    return int(value)


def granularity(value: str | None) -> str | None:
    """Read which kind of units a rule means: `head`, `head_dim`, `channel` or `family:<name>`; None stays None.

    Examples:
        >>> granularity("head"), granularity("family:fc1.weight")
        ('head', 'family:fc1.weight')
        >>> granularity("heads")
        Traceback (most recent call last):
        fprune.errors.ConfigError: granularity: expected 'head', 'head_dim', 'channel' or 'family:<name>', got 'heads'
        hint: Did you mean 'head'...

    Args:
        value: what the user wrote.

    Returns:
        The same.

    Raises:
        ConfigTypeError: it is not a text.
        ConfigError: there is no such kind.
    """
    return _read_granularity(value)


def _read_granularity(value: object) -> str | None:
    expected = "granularity: expected 'head', 'head_dim', 'channel' or 'family:<name>', got"
    if value is not None and not isinstance(value, str):
        raise ConfigTypeError(f"{expected} {value!r} ({type(value).__name__})", hint="granularity='head'")
    if value is None or value in ROLES or value.removeprefix("family:") not in ("", value):
        return value
    told = "print(fprune.structure.trace(net, example_inputs)) lists the families by name"
    raise ConfigError(f"{expected} {value!r}", hint=close_matches(value, ROLES) or told)
