"""Goals that go on from a round may not ask for less than it reached: what is pruned does not come back."""

from fprune.config import Config
from fprune.errors import ScheduleError
from fprune.fields import BUDGETS
from fprune.model import Model
from fprune.records import Goal

__all__ = ["refuse_less", "same_selectors"]


def same_selectors(a: Config, b: Config) -> bool:
    """Whether two configs differ in their amounts only.

    Examples:
        >>> same_selectors(Config(0.2), Config(0.8)), same_selectors(Config(0.2), Config({"total_sparsity": 0.2}))
        (True, False)
    """
    return a.map(lambda _: 0.0) == b.map(lambda _: 0.0)


def refuse_less(goal: Goal, reached: Goal, origin: Model, position: int, name: str) -> None:
    """Refuse a goal that asks for less than the round before it, whose state it would go on from.

    Configs with equal selectors are compared rule by rule, others by the fraction they remove of the whole model;
    a budget cannot be told as such a fraction, so there the rounds themselves decide.

    Raises:
        ScheduleError: it asks for less; masks only shrink, so it could not be met.
    """
    if goal.config == reached.config:
        return
    if same_selectors(goal.config, reached.config):
        pairs = zip(goal.config.rules, reached.config.rules, strict=True)
        several = len(goal.config.rules) > 1
        found = [
            (f"rule {rule}: " if several else "", key, part, old.amounts[key], 1e-9)
            for rule, (new, old) in enumerate(pairs)
            for key, part in new.amounts.items()
        ]
    elif any(rule.budget is not None for rule in (*goal.config.rules, *reached.config.rules)):
        return
    else:
        found = [("", "", _asked(goal.config, origin), _asked(reached.config, origin), 1e-3)]
    for where, key, new, old, tolerance in found:
        if new < old - tolerance:
            raise ScheduleError(
                f"{name}, goal {position}: {where}asks for {key if key in BUDGETS else 'sparsity'} {new:.4g} after "
                f"{old:.4g}, and pruned weights do not come back",
                hint='let the goal begin anew: Goal(config, start="origin")',
            )


def _asked(config: Config, origin: Model) -> float:
    """The fraction of all elements of the selected layers, weighted over the whole model, that a config removes."""
    rows = config.resolve(origin).rows
    sizes = [origin[row.layer.weight].numel() for row in rows]
    asked = [row.sparsity if row.sparsity is not None else row.total or 0.0 for row in rows]
    return sum(n * s for n, s in zip(sizes, asked, strict=True)) / max(sum(sizes), 1)
