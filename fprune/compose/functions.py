"""Checks of what users pass to stages and of what their functions return."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, cast

from torch import Tensor

from fprune.compose.call import expression
from fprune.errors import CompositionError, ConfigError, StageError, close_matches


def callable_fn(fn: object) -> None:
    """Refuse what is not a function, when the stage is written.

    Examples:
        >>> callable_fn(print)
        >>> callable_fn(3)
        Traceback (most recent call last):
        ...
        fprune.errors.CompositionError: expected a function, got 3 (int)
    """
    if not callable(fn):
        raise CompositionError(f"expected a function, got {fn!r} ({type(fn).__name__})")


def choice(value: object, what: str, known: Sequence[str]) -> None:
    """Refuse a word that is not among the known ones.

    Examples:
        >>> choice("recrod", "evaluate: nan", ["refuse", "record"])
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: evaluate: nan: expected 'refuse' or 'record', got 'recrod'
        hint: Did you mean 'record'?
    """
    if value not in known:
        hint = close_matches(value, known) if isinstance(value, str) else ""
        expected = " or ".join(map(repr, known))
        raise ConfigError(f"{what}: expected {expected}, got {value!r}", hint=hint or f"{known[0]!r} is the usual")


_BAD_OR_NONE = "0.0 counts as a bad score, NaN as none"


def finite(value: object, what: str, hint: str = _BAD_OR_NONE) -> float:
    """A finite real number as a float; `hint` is for one that is not finite.

    Examples:
        >>> finite(1, "loss")
        1.0

    Raises:
        StageError: it is something else, such as a tensor, a bool, None or NaN.
    """
    if isinstance(value, Tensor):
        raise StageError(
            f"{what} is a tensor of shape {tuple(value.shape)} on {value.device}, expected a number",
            hint="return value.item()" if value.numel() == 1 else "reduce it to one number: value.mean().item()",
        )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise StageError(
            f"{what} is {value!r} ({type(value).__name__}), expected a number", hint="return a float, such as 0.91"
        )
    number = float(value)
    if not math.isfinite(number):
        raise StageError(f"{what} is {number}, expected a finite number", hint=hint)
    return number


def numbers(returned: object, fn: object) -> Mapping[str, float]:
    """The metrics that a function returned as a mapping of names to numbers.

    Raises:
        StageError: it is no such mapping.
    """
    if not isinstance(returned, Mapping):
        raise StageError(
            f"{expression(fn)} returned {type(returned).__name__}",
            hint="return None, the module it was given, or numbers by name: {'loss': 0.1}",
        )
    found = cast("Mapping[Any, object]", returned)
    return {str(name): finite(value, f"{expression(fn)}()[{name!r}]") for name, value in found.items()}
