"""Which families of units a config prunes, and what each layer loses with a unit."""

from collections.abc import Mapping
from math import lcm

import attrs
import numpy as np

from fprune.allocate.budget import removals
from fprune.allocate.reach import Reach, eligible, outputs, refuse_unknown
from fprune.errors import ConfigError
from fprune.plan import Plan, Row
from fprune.structure import Family, Structure
from fprune.tree import Flat

__all__ = ["Axis", "axes", "outputs", "staying"]


@attrs.frozen(eq=False)
class Axis:
    """A family that is to be pruned.

    Args:
        family: the units.
        channels: weight name -> output channels of that layer that go with one unit, for the layers the config selects.
        rule: the rule that selects them.
        sparsity: fraction of the units to remove; None when the rule shares a total or has a budget.
        cap: the smallest bound of these layers.
        round_to: what is kept is a multiple of this.
        min_kept: at least so many units are kept, or all when there are fewer.
        keep_class: units may come back where the model's code would not hold the result.
        budget: fractions of the whole model's FLOPs and parameters that the rule removes, if that is its amount.
    """

    family: Family
    channels: Mapping[str, int]
    rule: int
    sparsity: float | None
    cap: float
    round_to: int = 1
    min_kept: int = 1
    keep_class: bool = False
    budget: Flat[float] | None = None

    def removes(self, asked: int, already: int = 0) -> int:
        """How many of the original units go: as many as asked, or fewer for the sake of a multiple.

        Examples:
            >>> from fprune.structure import Family
            >>> axis = Axis(Family("w", np.arange(30), (), 30), {}, 0, 0.5, 1.0, round_to=8)
            >>> axis.removes(15), axis.removes(5), axis.removes(5, already=14)
            (14, 0, 14)

        Args:
            asked: how many a sparsity removes.
            already: how many are gone; they do not come back.
        """
        total = self.family.original
        least = max(total - asked, min(self.min_kept, total))
        return max(total - -(-least // self.round_to) * self.round_to, already)

    def allows(self, removed: int) -> bool:
        """Whether a count leaves a multiple, and enough."""
        kept = self.family.original - removed
        return kept % self.round_to == 0 and (self.min_kept == 1 or kept >= self.min_kept)


def axes(structure: Structure, plan: Plan) -> tuple[Axis, ...]:
    """The families to prune under a plan.

    Where the channels of a layer are products of several families (heads and the places in a head, groups and the
    channels within a group), one of them is pruned and the others are left alone, so that the layer loses the fraction
    asked for and no more: that of the rule's granularity; else the heads, those that reach most channels first; else
    the family with the most units.

    Raises:
        ConfigError: coupled layers ask for different amounts; a rule's granularity names nothing; no multiple of
            `round_to` can be kept; a layer named exactly can lose nothing; no layer can.
    """
    reach = Reach.of(structure, plan)
    refuse_unknown(structure, plan, reach)
    users = {n: [row for row in rows if eligible(row, structure.families[n])] for n, rows in reach.rows.items()}
    covered = {row.layer.weight: np.zeros(row.layer.units, np.bool_) for row in plan.selected}
    found: dict[int, Axis] = {}
    for number in sorted(users, key=lambda n: _priority(n, structure.families[n], reach)):
        hits = {row.layer.weight: (reach.grids[row.layer.weight] == number).any(1) for row in users[number]}
        if not hits or number in reach.held or any((covered[name] & hit).any() for name, hit in hits.items()):
            continue
        for name, hit in hits.items():
            covered[name] |= hit
        counts = {name: int(hit.sum()) for name, hit in hits.items()}
        found[number] = _axis(structure.families[number], users[number], counts)
    _refuse_idle(structure, plan, reach)
    return tuple(found[number] for number in sorted(found))


def _priority(number: int, family: Family, reach: Reach) -> tuple[int, int, int, int]:
    """Heads before channels, and the width of heads last; then by what they reach, or how many there are."""
    order = ("head", "channel", "head_dim").index(family.role)
    channels = sum(int((reach.grids[row.layer.weight] == number).any(1).sum()) for row in reach.rows[number])
    return order, 0 if family.role == "channel" else -channels, -family.original, number


def _axis(family: Family, users: list[Row], hits: Mapping[str, int]) -> Axis:
    amounts = {(row.rule if row.sparsity is None else None, row.sparsity) for row in users}
    if len(amounts) > 1:
        told = ", ".join(f"{row.layer.name!r}: {row.removes} (rule {row.rule})" for row in users)
        raise ConfigError(
            f"layers that lose their channels together ask for different amounts: {told}",
            hint="give them one sparsity, or exclude them",
        )
    caps = [row.cap for row in users if row.cap is not None]
    channels = {name: count // len(family) for name, count in hits.items()}
    axis = Axis(
        family,
        channels,
        users[0].rule or 0,
        users[0].sparsity,
        min(caps, default=1.0),
        lcm(*(row.round_to for row in users)),
        max(row.min_kept for row in users),
        any(row.keep_class for row in users),
        users[0].budget,
    )
    _refuse_uneven(axis)
    return axis


def _refuse_uneven(axis: Axis) -> None:
    """Refuse a family of which no legal number of units can be kept, at any sparsity."""
    total, step = axis.family.original, axis.round_to
    least = min(axis.min_kept, total)
    if total // step * step >= least:
        return
    reachable = [n for n in range(1, total + 1) if total // n * n >= least]
    told = f"kept in multiples of {step}" + (f", {least} at least" if least > 1 else "")
    raise ConfigError(
        f"rule {axis.rule}: {axis.family.name!r} has {total} units, which cannot be {told}",
        hint=f"round_to can be {_listed(reachable)} here; give {_names(axis)} another rule",
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) < 9 else f"1 to {numbers[-1]}"


def _names(axis: Axis) -> str:
    return ", ".join(repr(name.removesuffix(".weight")) for name in axis.channels)


def staying(structure: Structure, plan: Plan) -> dict[str, str]:
    """Selected layers that keep channels whatever the amount, and why: seen before anything runs.

    Args:
        structure: the couplings.
        plan: which layers the config selects and excludes.

    Returns:
        Layer name -> how many of its channels stay, and what keeps them.
    """
    return _stuck(structure, plan, Reach.of(structure, plan)) | _rounded(structure, plan)


def _stuck(structure: Structure, plan: Plan, reach: Reach) -> dict[str, str]:
    """Layers with channels that nothing can remove."""
    out: dict[str, str] = {}
    for row in plan.selected:
        grid, mine = reach.grids[row.layer.weight], reach.meant(row, structure)
        meant = np.isin(grid, mine).any(1) | (row.granularity is None)  # else the rule leaves the rest alone
        kept = int((meant & ~np.isin(grid, [n for n in mine if n not in reach.held]).any(1)).sum())
        if kept:
            count = "all" if kept == len(grid) else f"{kept}"
            why = reach.excluded(row, plan) or _outlets(structure)
            out[row.layer.name] = f"{count} of its {row.layer.units} channels stay: {why}"
    return out


def _rounded(structure: Structure, plan: Plan) -> dict[str, str]:
    """Layers of which nothing goes because no smaller multiple is near enough."""
    uneven = any(row.round_to > 1 for row in plan.selected)
    out: dict[str, str] = {}
    for axis in axes(structure, plan) if uneven else ():
        total = axis.family.original
        asked = removals(axis.sparsity or 0.0, total)
        if asked and not axis.removes(asked):
            why = f"all {total} units of {axis.family.name!r} stay: {asked} would go, and {axis.round_to} at a time"
            out |= {row.layer.name: why for row in plan.selected if row.layer.weight in axis.channels}
    return out


def _outlets(structure: Structure) -> str:
    """What can hold a channel that no excluded layer holds: the outputs, and the barriers by name."""
    barriers = list(dict.fromkeys(f"{b.op} in {b.module or 'the root module'}" for b in structure.barriers))
    rest = f" and {len(barriers) - 3} more" if len(barriers) > 3 else ""
    return "they reach the model's output" + (f" or {', '.join(barriers[:3])}{rest}" if barriers else "")


def _refuse_idle(structure: Structure, plan: Plan, reach: Reach) -> None:
    stay = {name: why for name, why in _stuck(structure, plan, reach).items() if why.startswith("all ")}
    meant = [row for row in plan.selected if row.granularity is None or reach.meant(row, structure)]
    idle = [row for row in meant if row.layer.name in stay]
    named = [row for row in idle if row.named]
    if not named and len(idle) < len(meant):
        return
    row = (named or idle)[0]
    raise ConfigError(
        f"rule {row.rule}: {row.layer.name!r} can lose no channel: {stay[row.layer.name]}",
        hint="exclude it, include what it is coupled to, or prune it with another allocation",
    )
