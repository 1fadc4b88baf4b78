"""One small removal after the other, each where it costs least."""

from collections.abc import Generator, Sequence

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal, Report
from fprune.schedules.groups import pools
from fprune.schedules.resource import Kind, Ledger, allocated, ledgers
from fprune.schedules.searching import counted, kind_of_resource, score_of
from fprune.setting import Setting


def _check(steps: int = 10, *, target: Kind = "params") -> None:
    counted("steps", steps, 1)
    kind_of_resource("target", target)


@schedule(setting=True, needs=("score",), check=_check)
def netadapt(
    config: Config, setting: Setting, steps: int = 10, *, target: Kind = "params"
) -> Generator[Goal, Report, None]:
    """Remove a little at a time, each time from the layer that can spare it best.

    In every step each layer (each group of layers whose channels go together) proposes the smallest removal that saves
    `1 / steps` of the target; each proposal is a round, and the one with the best score is kept:

    saved(t + 1) >= min(target, saved(t) + target / steps)

    so that there are at most `steps` rounds for each layer. All rounds start from the original model with what was kept
    so far; the proposals of one step do not look at one another and run at the same time with `executor=`. Every rule
    meets its own `total_sparsity` (or `sparsity`, taken for all its layers), counted in weights of its layers or in
    operations done with them; of pruned channels, the layers that read them shrink too.

    Examples:
        >>> from torch import nn
        >>> target, net = Config([{"total_sparsity": 0.5}]), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
        >>> goals = netadapt(4).goals(target, setting=Setting.of(net, target))
        >>> [[rule.sparsity for rule in goal.config.rules] for goal in goals]
        [[0.1875, 0.0], [0.0, 0.375]]

    Args:
        config: the caller's config; filled in by the run.
        setting: the layers of the model; filled in by the run.
        steps: into how many parts the target is divided, at least 1.
        target: what is counted, `"params"` or `"flops"`; the latter needs the model's structure.

    Returns:
        Goals, each from the original model; those of the last step meet the target and are final.

    Raises:
        ConfigError: an option is out of range, or the bounds of the layers do not let the target be met.
        CompositionError: operations are to be counted, and nothing traces the model.
        ScheduleError: a round has no score.

    References:
        Yang et al, `NetAdapt <https://arxiv.org/abs/1804.03230>`_, 2018
    """
    found = pools(setting)
    books = ledgers(setting, found, target, "netadapt")
    counts = [group.least for pool in found for group in pool.groups]
    while not all(book.met(counts) for book in books):
        proposals = [new for book in books if not book.met(counts) for new in _proposals(book, counts, steps)]
        reports: list[Report] = []
        for new in proposals:
            done = all(book.met(new) for book in books)
            reports.append((yield Goal(allocated(setting, books, new), start="origin", final=done)))
        scores = [score_of(report) for report in reports]
        counts = proposals[scores.index(max(scores))]


def _proposals(book: Ledger, counts: Sequence[int], steps: int) -> list[list[int]]:
    """What each group of a rule would remove for the next step; those too small for it, all they may."""
    need = min(book.need, book.saved(counts) + book.need / steps)
    out: list[list[int]] = []
    for at in book.mine:
        new = [*counts]
        new[at] = max(book.least(counts, at, need), counts[at])
        if new[at] > counts[at]:
            out.append(new)
    enough = [new for new in out if book.met(new, need)]
    return enough or out
