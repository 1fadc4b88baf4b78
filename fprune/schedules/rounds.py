"""The check that every schedule with a number of rounds makes when it is written."""

from fprune.errors import ConfigError, ConfigTypeError


def whole(rounds: int) -> None:
    """Refuse what is not a whole number of at least one round.

    Examples:
        >>> whole(10)
        >>> whole(0)
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigError: rounds: expected at least 1, got 0
        hint: one_shot() prunes at once

    Args:
        rounds: how many.

    Raises:
        ConfigTypeError: it is not an int.
        ConfigError: it is less than 1.
    """
    found: object = rounds
    if type(found) is not int:  # True is an int too
        raise ConfigTypeError(
            f"rounds: expected an int, got {found!r} ({type(found).__name__})", hint="a whole number, such as 10"
        )
    if rounds < 1:
        raise ConfigError(f"rounds: expected at least 1, got {rounds}", hint="one_shot() prunes at once")
