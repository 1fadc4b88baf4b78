"""The lottery ticket's iterative pruning."""

from collections.abc import Iterator

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal
from fprune.schedules.rounds import whole


@schedule(check=whole)
def lottery(target: Config, rounds: int) -> Iterator[Goal]:
    """Remove the same share of what is left in every round.

    sparsity(t) = 1 - (1 - s)^(t / N) for t = 1 .. N. The weights go back to their first values by a stage:
    `lottery(10) | finetune(train) | level() | reset_weight()`.

    Examples:
        >>> [round(goal.config.rules[0].amount, 5) for goal in lottery(4).goals(Config(0.8))]
        [0.33126, 0.55279, 0.70093, 0.8]

    Args:
        target: the caller's config; filled in by the run.
        rounds: N, at least 1; there are N goals.

    Returns:
        Goals; the last equals the target and is final.

    Raises:
        ConfigError: `rounds` is less than 1.
        ConfigTypeError: `rounds` is not an int.

    References:
        Frankle and Carbin, `The Lottery Ticket Hypothesis <https://arxiv.org/abs/1803.03635>`_, 2019
    """
    for t in range(1, rounds):
        fraction = t / rounds
        yield Goal(target.map(lambda s, fraction=fraction: 1 - (1 - s) ** fraction))
    yield Goal(target, final=True)
