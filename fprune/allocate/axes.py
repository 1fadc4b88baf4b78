"""Which families of units a config prunes, and what each layer loses with a unit."""

from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray

from fprune.errors import ConfigError
from fprune.layers import Layer
from fprune.plan import Plan, Row
from fprune.structure import Family, Structure

__all__ = ["Axis", "axes", "outputs", "staying"]

Ints = NDArray[np.int64]


@attrs.frozen(eq=False)
class Axis:
    """A family that is to be pruned.

    Args:
        family: the units.
        channels: weight name -> output channels of that layer that go with one unit, for the layers the config selects.
        rule: the rule that selects them.
        sparsity: fraction of the units to remove; None when the rule shares a total.
        cap: the smallest bound of these layers.
    """

    family: Family
    channels: Mapping[str, int]
    rule: int
    sparsity: float | None
    cap: float


def outputs(structure: Structure, layer: Layer) -> Ints:
    """Label rows of a layer's output channels, `(units, k)`; all 0 when the program does not use its weight."""
    for sink in structure.sinks:
        if (
            sink.out is not None
            and sink.weight is not None
            and structure.graph.tensors.get(sink.weight) == layer.weight
        ):
            return sink.out
    for index, name in structure.graph.tensors.items():
        if name == layer.weight:
            rows = structure.rows[index][layer.axis]
            return rows if len(rows) == layer.units else np.zeros((layer.units, 1), np.int64)
    return np.zeros((layer.units, 1), np.int64)


def axes(structure: Structure, plan: Plan) -> tuple[Axis, ...]:
    """The families to prune under a plan.

    Where the channels of a layer are products of several families (groups and channels within a group), the family with
    the most units is pruned and the others are left alone, so that the layer loses the fraction asked for and no more.

    Raises:
        ConfigError: coupled layers ask for different amounts; a layer named exactly can lose nothing; no layer can.
    """
    layout = _Layout.of(structure, plan)
    order = sorted(range(len(structure.families)), key=lambda n: (-structure.families[n].original, n))
    covered = {row.layer.weight: np.zeros(row.layer.units, np.bool_) for row in plan.selected}
    found: dict[int, Axis] = {}
    for number in order:
        users = [row for row in plan.selected if (layout.grids[row.layer.weight] == number).any()]
        hits = {row.layer.weight: (layout.grids[row.layer.weight] == number).any(1) for row in users}
        if not users or number in layout.held or any((covered[name] & hit).any() for name, hit in hits.items()):
            continue
        for name, hit in hits.items():
            covered[name] |= hit
        found[number] = _axis(structure.families[number], users, {name: int(hit.sum()) for name, hit in hits.items()})
    _refuse_idle(structure, plan)
    return tuple(found[number] for number in sorted(found))


def _axis(family: Family, users: list[Row], hits: Mapping[str, int]) -> Axis:
    amounts = {(row.rule if row.total is not None else None, row.sparsity) for row in users}
    if len(amounts) > 1:
        told = ", ".join(f"{row.layer.name!r}: {row.removes} (rule {row.rule})" for row in users)
        raise ConfigError(
            f"layers that lose their channels together ask for different amounts: {told}",
            hint="give them one sparsity, or exclude them",
        )
    caps = [row.cap for row in users if row.cap is not None]
    channels = {name: count // len(family) for name, count in hits.items()}
    return Axis(family, channels, users[0].rule or 0, users[0].sparsity, min(caps, default=1.0))


def staying(structure: Structure, plan: Plan) -> dict[str, str]:
    """Selected layers that keep channels whatever the amount, and why: seen before anything runs.

    Args:
        structure: the couplings.
        plan: which layers the config selects and excludes.

    Returns:
        Layer name -> how many of its channels stay, and what keeps them.
    """
    layout = _Layout.of(structure, plan)
    out: dict[str, str] = {}
    for row in plan.selected:
        grid = layout.grids[row.layer.weight]
        kept = ~((grid >= 0) & ~np.isin(grid, list(layout.held))).any(1)
        if kept.any():
            count = "all" if kept.all() else f"{int(kept.sum())}"
            why = layout.excluded(row, plan) or _outlets(structure)
            out[row.layer.name] = f"{count} of its {row.layer.units} channels stay: {why}"
    return out


@attrs.frozen(eq=False)
class _Layout:
    """Which family each output channel belongs to, and which families an excluded layer holds.

    Args:
        grids: weight name -> family of each label of each output channel, `(units, k)`; -1 where nothing can go.
        held: families that reach an excluded layer.
    """

    grids: Mapping[str, Ints]
    held: set[int]

    @staticmethod
    def of(structure: Structure, plan: Plan) -> "_Layout":
        family_of = np.full(structure.labels, -1, np.int64)
        for number, family in enumerate(structure.families):
            family_of[family.labels] = number
        rows = [row for row in plan.rows if row.selected or row.excluded]
        grids = {row.layer.weight: family_of[outputs(structure, row.layer)] for row in rows}
        held = {n for row in rows if row.excluded for n in np.unique(grids[row.layer.weight]).tolist() if n >= 0}
        return _Layout(grids, held)

    def excluded(self, row: Row, plan: Plan) -> str:
        """Which excluded layers hold the channels of a layer, in words; empty when none does."""
        shared = set(np.unique(self.grids[row.layer.weight]).tolist()) & self.held
        found = [
            r.layer.name for r in plan.rows if r.excluded and not shared.isdisjoint(self.grids[r.layer.weight].flat)
        ]
        return f"it is coupled to {', '.join(map(repr, found))}, which the rules exclude" if found else ""


def _outlets(structure: Structure) -> str:
    """What can hold a channel that no excluded layer holds: the outputs, and the barriers by name."""
    barriers = list(dict.fromkeys(f"{b.op} in {b.module or 'the root module'}" for b in structure.barriers))
    rest = f" and {len(barriers) - 3} more" if len(barriers) > 3 else ""
    return "they reach the model's output" + (f" or {', '.join(barriers[:3])}{rest}" if barriers else "")


def _refuse_idle(structure: Structure, plan: Plan) -> None:
    stay = {name: why for name, why in staying(structure, plan).items() if why.startswith("all ")}
    idle = [row for row in plan.selected if row.layer.name in stay]
    named = [row for row in idle if row.named]
    if not named and len(idle) < len(plan.selected):
        return
    row = (named or idle)[0]
    raise ConfigError(
        f"rule {row.rule}: {row.layer.name!r} can lose no channel: {stay[row.layer.name]}",
        hint="exclude it, include what it is coupled to, or prune it with another allocation",
    )
