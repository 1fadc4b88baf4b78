"""What the searches share: the score they compare, and the checks of their options."""

import math
from numbers import Real

from fprune.errors import ConfigError, ConfigTypeError, ScheduleError
from fprune.records import Goal, Report
from fprune.schedules.groups import Floats, Pool, allocation
from fprune.schedules.shares import whole
from fprune.setting import Setting

__all__ = ["candidate", "counted", "kind_of_resource", "number", "score_of"]


def candidate(setting: Setting, found: tuple[Pool, ...], shares: tuple[Floats, ...]) -> Goal:
    """The goal of trying an allocation in whole units: from the original model, and good enough to be returned."""
    exact = [whole(mine, pool) for mine, pool in zip(shares, found, strict=True)]
    return Goal(allocation(setting.plan, found, exact), start="origin", final=True)


def score_of(report: Report) -> float:
    """The score of a round.

    Raises:
        ScheduleError: there is none, or it is not a number.
    """
    if report.score is None or math.isnan(report.score):
        found = "no score" if report.score is None else "a score that is not a number"
        raise ScheduleError(f"round {report.index} has {found}, and a search compares scores", hint="add evaluate(fn)")
    return report.score


def number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """Refuse an option that is not a number in `[low, high]`.

    Examples:
        >>> number("cooling", 0.9, 0, 1, open_low=True)
        >>> number("cooling", 1.5, 0, 1, open_low=True)
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: cooling: expected a number in (0, 1], got 1.5

    Args:
        name: of the option.
        value: what was given.
        low: the least.
        high: the most; may be infinite.
        open_low: whether the least itself is refused.
    """
    legal = f"{'(' if open_low else '['}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigTypeError(f"{name}: expected a number in {legal}, got {value!r} ({type(value).__name__})")
    if not low <= float(value) <= high or (open_low and float(value) == low) or math.isinf(float(value)):
        raise ConfigError(f"{name}: expected a number in {legal}, got {float(value):g}")


def counted(name: str, value: object, least: int) -> None:
    """Refuse an option that is not a whole number of at least so many.

    Examples:
        >>> counted("population", 1, 2)
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: population: expected at least 2, got 1
    """
    if type(value) is not int:  # True is an int too
        raise ConfigTypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ConfigError(f"{name}: expected at least {least}, got {value}")


def kind_of_resource(name: str, value: object) -> None:
    """Refuse what is neither `"params"` nor `"flops"`."""
    if value not in ("params", "flops"):
        raise ConfigError(f"{name}: expected 'params' or 'flops', got {value!r}")
