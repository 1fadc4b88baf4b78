"""Which families of units a config prunes, and what each layer loses with a unit."""

from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray

from fprune.errors import ConfigError
from fprune.layers import Layer
from fprune.plan import Plan, Row
from fprune.structure import Family, Structure

__all__ = ["Axis", "axes", "outputs"]

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
    family_of = np.full(structure.labels, -1, np.int64)
    for number, family in enumerate(structure.families):
        family_of[family.labels] = number
    grids = {
        row.layer.weight: family_of[outputs(structure, row.layer)] for row in plan.rows if row.selected or row.excluded
    }
    held = {n for row in plan.rows if row.excluded for n in np.unique(grids[row.layer.weight]).tolist()}
    covered = {row.layer.weight: np.zeros(row.layer.units, np.bool_) for row in plan.selected}
    order = sorted(range(len(structure.families)), key=lambda n: (-structure.families[n].original, n))
    found: dict[int, Axis] = {}
    for number in order:
        users = [row for row in plan.selected if (grids[row.layer.weight] == number).any()]
        hits = {row.layer.weight: (grids[row.layer.weight] == number).any(1) for row in users}
        if not users or number in held or any((covered[name] & hit).any() for name, hit in hits.items()):
            continue
        for name, hit in hits.items():
            covered[name] |= hit
        found[number] = _axis(structure.families[number], users, {name: int(hit.sum()) for name, hit in hits.items()})
    _refuse_idle(plan, covered, grids, held, structure)
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


def _refuse_idle(
    plan: Plan,
    covered: Mapping[str, NDArray[np.bool_]],
    grids: Mapping[str, Ints],
    held: set[int],
    structure: Structure,
) -> None:
    idle = [row for row in plan.selected if not covered[row.layer.weight].any()]
    named = [row for row in idle if row.named]
    if not named and len(idle) < len(plan.selected):
        return
    row = (named or idle)[0]
    coupled = set(np.unique(grids[row.layer.weight]).tolist()) & held - {-1}
    excluded = [r.layer.name for r in plan.rows if r.excluded and not coupled.isdisjoint(grids[r.layer.weight].flat)]
    barriers = [str(b) for b in structure.barriers]
    why = "its channels reach the model's output or an operation that keeps them"
    hint = "exclude it, or prune it with another allocation" + (f"; kept by {barriers[0]}" if barriers else "")
    if coupled:
        why = f"it is coupled to a layer that the rules exclude ({', '.join(map(repr, excluded))})"
        hint = "exclude it too, or include those layers"
    raise ConfigError(f"rule {row.rule}: {row.layer.name!r} can lose no channel: {why}", hint=hint)
