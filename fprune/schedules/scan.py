"""One layer at a time, at one ratio after the other."""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

from fprune.compose import schedule
from fprune.config import Config
from fprune.errors import ConfigError, ConfigTypeError
from fprune.records import Goal
from fprune.schedules.groups import pools
from fprune.setting import Setting

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def _check(ratios: Sequence[float] = RATIOS) -> None:
    found: Any = ratios
    if isinstance(found, str) or not hasattr(found, "__iter__"):
        raise ConfigTypeError(f"ratios: expected numbers, got {found!r}", hint="(0.25, 0.5, 0.75)")
    listed: list[Any] = list(found)
    for ratio in listed:
        if isinstance(ratio, bool) or not isinstance(ratio, Real):
            raise ConfigTypeError(f"ratios: expected numbers, got {ratio!r}", hint="(0.25, 0.5, 0.75)")
        if not 0 < float(ratio) < 1:
            raise ConfigError(f"ratios: expected fractions in (0, 1), got {ratio}", hint="0.5 removes half of a layer")
    if not listed or listed != sorted(set(listed)):
        raise ConfigError(f"ratios: expected growing numbers, got {listed}", hint="(0.25, 0.5, 0.75)")


@schedule(setting=True, check=_check)
def scan(target: Config, setting: Setting, ratios: Sequence[float] = RATIOS) -> Iterator[Goal]:
    """Prune one layer at a time, each from the origin, at one ratio after the other.

    Goal 0 removes nothing and gives the score to compare with. Then, for every layer that the target selects, there is
    a goal for each ratio that its `max_sparsity_per_layer` allows. The amounts of the target do not matter. Where the
    pruner is `dependency_aware`, layers that lose their channels together count as one, and layers that can lose none
    are left out.

    Examples:
        >>> from torch import nn
        >>> setting = Setting.of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), 0.5)
        >>> for goal in scan((0.25, 0.5)).goals(Config(0.5), setting=setting):
        ...     print(goal.config)
        Config(0.0)
        Config([Rule(op_names=('0',), sparsity=0.25)])
        Config([Rule(op_names=('0',), sparsity=0.5)])
        Config([Rule(op_names=('1',), sparsity=0.25)])
        Config([Rule(op_names=('1',), sparsity=0.5)])

    Args:
        target: the caller's config; filled in by the run.
        setting: the layers; filled in by the run.
        ratios: fractions to remove, growing, each in (0, 1).

    Returns:
        Goals, none of them final.

    Raises:
        ConfigError: `ratios` is empty, not growing, or not in (0, 1).
        ConfigTypeError: `ratios` holds something other than numbers.
    """
    yield Goal(target.scaled(0.0), start="origin")
    groups = [group for pool in pools(setting) for group in pool.groups]
    for group in sorted(groups, key=lambda group: setting.plan.rows.index(group.rows[0])):
        names = [row.layer.weight for row in group.rows]
        for ratio in (float(ratio) for ratio in ratios if ratio <= group.cap):
            yield Goal(Config.allocated(setting.plan, dict.fromkeys(names, ratio)), start="origin")
