"""Equal steps."""

from collections.abc import Iterator

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal
from fprune.schedules.rounds import whole


@schedule(check=whole)
def linear(target: Config, rounds: int) -> Iterator[Goal]:
    """Reach the target in equal steps.

    sparsity(t) = s * t / N for t = 0 .. N: the first round prunes nothing and gives the score to compare with.

    Examples:
        >>> [goal.config for goal in linear(4).goals(Config(0.5))]
        [Config(0.0), Config(0.125), Config(0.25), Config(0.375), Config(0.5)]

    Args:
        target: the caller's config; filled in by the run.
        rounds: N, at least 1; there are N + 1 goals.

    Returns:
        Goals; the last equals the target and is final.

    Raises:
        ConfigError: `rounds` is less than 1.
        ConfigTypeError: `rounds` is not an int.
    """
    for t in range(rounds):
        yield Goal(target.scaled(t / rounds))
    yield Goal(target, final=True)
