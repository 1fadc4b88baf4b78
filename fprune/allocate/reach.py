"""Which families the output channels of a layer belong to, and which of them a rule means."""

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fprune.errors import ConfigError, close_matches
from fprune.layers import Layer
from fprune.plan import Plan, Row
from fprune.structure import Family, Structure

__all__ = ["Reach", "eligible", "outputs", "refuse_unknown"]

Ints = NDArray[np.int64]


def eligible(row: Row, family: Family) -> bool:
    """Whether a layer's rule means a family: by its role, by its name, or every family.

    Examples:
        >>> from fprune.layers import layers_of
        >>> from torch import ones
        >>> (layer,) = layers_of({"w": ones(4, 2)})
        >>> family = Family("w", np.arange(4), (), 4)
        >>> [eligible(Row(layer, granularity=kind), family) for kind in (None, "channel", "head", "family:w")]
        [True, True, False, True]
    """
    return row.granularity is None or row.granularity in (family.role, f"family:{family.name}")


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


@attrs.frozen(eq=False)
class Reach:
    """Which family each output channel belongs to, and which families an excluded layer holds.

    Args:
        grids: weight name -> family of each label of each output channel, `(units, k)`; -1 where nothing can go.
        rows: family number -> the selected layers with channels in it.
        held: families that reach an excluded layer.
    """

    grids: Mapping[str, Ints]
    rows: Mapping[int, Sequence[Row]]
    held: frozenset[int]

    @staticmethod
    def of(structure: Structure, plan: Plan) -> "Reach":
        """Look at the layers that a plan selects or excludes."""
        grids = _grids(structure, [row for row in plan.rows if row.selected or row.excluded])
        rows: dict[int, list[Row]] = {}
        for row in plan.selected:
            for number in _numbers(grids[row.layer.weight]):
                rows.setdefault(number, []).append(row)
        held = frozenset(n for row in plan.rows if row.excluded for n in _numbers(grids[row.layer.weight]))
        return Reach(grids, rows, held)

    def meant(self, row: Row, structure: Structure) -> list[int]:
        """The families of a layer that its rule means."""
        return [n for n in _numbers(self.grids[row.layer.weight]) if eligible(row, structure.families[n])]

    def excluded(self, row: Row, plan: Plan) -> str:
        """Which excluded layers hold the channels of a layer, in words; empty when none does."""
        shared = self.held.intersection(_numbers(self.grids[row.layer.weight]))
        found = [
            r.layer.name for r in plan.rows if r.excluded and not shared.isdisjoint(self.grids[r.layer.weight].flat)
        ]
        return f"it is coupled to {', '.join(map(repr, found))}, which the rules exclude" if found else ""


def _grids(structure: Structure, rows: Sequence[Row]) -> dict[str, Ints]:
    family_of = np.full(structure.labels, -1, np.int64)
    for number, family in enumerate(structure.families):
        family_of[family.labels] = number
    return {row.layer.weight: family_of[outputs(structure, row.layer)] for row in rows}


def _numbers(grid: Ints) -> list[int]:
    return np.unique(grid[grid >= 0]).tolist()


def refuse_unknown(structure: Structure, plan: Plan, reach: Reach) -> None:
    """Refuse a granularity that names no units of the layers a rule selects, or none of a layer it names exactly.

    Raises:
        ConfigError: it does; the hint says what there is.
    """
    kinds = {row.rule: row.granularity for row in plan.selected if row.granularity is not None}
    for rule, kind in kinds.items():
        rows = [row for row in plan.selected if row.rule == rule]
        without = [row for row in rows if not reach.meant(row, structure)]
        named = [row for row in without if row.named]
        if named or len(without) == len(rows):
            who = repr(named[0].layer.name) if named else "any layer it selects"
            found = f"rule {rule}: granularity {kind!r} names no units of {who}"
            raise ConfigError(found, hint=_instead(structure, plan, (named or rows)[0]))


def _instead(structure: Structure, plan: Plan, row: Row) -> str:
    """Which layers have the units that a rule means; else what families there are."""
    grids, asked = _grids(structure, plan.rows), row.granularity or ""
    others = [
        r.layer.name
        for r in plan.rows
        if any(eligible(row, structure.families[n]) for n in _numbers(grids[r.layer.weight]))
    ]
    if others:
        return f"these layers have them: {', '.join(map(repr, others[:4]))}; select them, by op_names or op_types"
    known = [f"family:{family.name}" for family in structure.families]
    own = [structure.families[n] for n in _numbers(grids[row.layer.weight])]
    told = ", ".join(f"{f.role!r} ('family:{f.name}')" for f in own) or "nothing that can go"
    return close_matches(asked, known) or f"{row.layer.name!r} has {told}"
