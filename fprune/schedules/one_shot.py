"""Everything in one round."""

from collections.abc import Iterator

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal


@schedule
def one_shot(target: Config) -> Iterator[Goal]:
    """Reach the target in a single round.

    sparsity(0) = s

    Examples:
        >>> one_shot().goals(Config(0.8))
        [Goal(Config(0.8), final=True)]

    Args:
        target: the caller's config; filled in by the run.

    Returns:
        One final goal.
    """
    yield Goal(target, final=True)
