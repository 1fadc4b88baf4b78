"""Automated gradual pruning."""

from collections.abc import Iterator

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal
from fprune.schedules.rounds import whole


@schedule(check=whole)
def agp(target: Config, rounds: int) -> Iterator[Goal]:
    """Prune fast at first, while there is much to remove, and ever more slowly towards the target.

    sparsity(t) = s * (1 - (1 - t / N)^3) for t = 0 .. N

    Examples:
        >>> [round(goal.config.rules[0].amount, 4) for goal in agp(4).goals(Config(0.8))]
        [0.0, 0.4625, 0.7, 0.7875, 0.8]

    Args:
        target: the caller's config; filled in by the run.
        rounds: N, at least 1; there are N + 1 goals.

    Returns:
        Goals; the last equals the target and is final.

    Raises:
        ConfigError: `rounds` is less than 1.
        ConfigTypeError: `rounds` is not an int.

    References:
        Zhu and Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017
    """
    for t in range(rounds):
        yield Goal(target.scaled(1 - (1 - t / rounds) ** 3))
    yield Goal(target, final=True)
