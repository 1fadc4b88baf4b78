"""Checks of options that several pruners have."""

from typing import TypeAlias

from fprune.criteria import Grain
from fprune.criteria.batches import check_data
from fprune.errors import ConfigError, ConfigTypeError

__all__ = ["Granularity", "check_flags", "check_granularity", "check_scored"]

Granularity: TypeAlias = Grain
"""What a pruner removes: single weights (`"element"`), or whole output channels with their bias (`"channel"`)."""


def check_granularity(who: str, granularity: object) -> None:
    """Refuse a granularity that is neither of the two."""
    if granularity not in ("element", "channel"):
        found = f"{who}: expected granularity 'element' or 'channel', got {granularity!r}"
        raise ConfigError(found, hint=f"{who}(..., granularity='channel') removes whole output channels")


def check_flags(who: str, **flags: object) -> None:
    """Refuse an option that is not True or False."""
    for name, value in flags.items():
        if type(value) is not bool:
            raise ConfigTypeError(f"{who}: {name}: expected True or False, got {value!r} ({type(value).__name__})")


def check_scored(who: str, loss: object, batches: object, granularity: object, **flags: object) -> None:
    """Refuse what a pruner with a loss cannot work with: the data, then the options."""
    check_data(who, loss, batches)
    check_granularity(who, granularity)
    check_flags(who, **flags)
