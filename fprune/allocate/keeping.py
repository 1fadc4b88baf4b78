"""Balance a choice of units so that every module of the model keeps its code."""

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fprune.allocate.axes import Axis
from fprune.structure import Structure
from fprune.structure.constraints import Constraint, constraints

__all__ = ["keep_class"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def keep_class(structure: Structure, found: Sequence[Axis], before: Bools, removed: Bools, scores: Floats) -> None:
    """Give back units until the sizes obey what the model's code says about them.

    A class that computes `width // num_heads`, or takes two equal halves, can hold a result only if the counts of
    several families obey an equation. As long as one does not hold, a unit of a family that would close the gap comes
    back, of the one that lost the largest fraction, its best unit first. No more is lost than was asked for; with all
    units back every equation holds. An equation that these units cannot satisfy is left as it is.

    Args:
        structure: the couplings.
        found: the families that are pruned; those with `keep_class` may get units back.
        before: which labels were gone before.
        removed: which labels are gone; those given back are taken out.
        scores: a score for each label.
    """
    demands = constraints(structure)
    balance = _Balance.of(demands.parts, found, before, removed)
    equations = [equation for equation in demands.equations if equation.parts.intersection(balance.room)]
    changed = True
    while changed:  # to close one gap may open another
        outcomes = [(equation, balance.closes(equation)) for equation in equations]
        equations = [equation for equation, raised in outcomes if raised is not None]
        changed = any(raised for _, raised in outcomes)
    for part, count in balance.back.items():
        gone = demands.parts[part][removed[demands.parts[part]] & ~before[demands.parts[part]]]
        best = np.argsort(scores[gone], kind="stable")[len(gone) - count :]
        removed[gone[best]] = False


@attrs.frozen(eq=False)
class _Balance:
    """Counts of units in every part, while they grow.

    Args:
        kept: part -> units that stay.
        sizes: part -> units there are.
        room: part -> units that may come back.
        back: part -> units that do.
        steps: part -> how many come back at a time.
        families: part -> the parts of its family.
    """

    kept: dict[int, int]
    sizes: dict[int, int]
    room: dict[int, int]
    back: dict[int, int]
    steps: dict[int, int]
    families: dict[int, list[int]]

    @staticmethod
    def of(parts: Sequence[Ints], found: Sequence[Axis], before: Bools, removed: Bools) -> "_Balance":
        """Count what the present choice leaves."""
        axis_of = {int(label): n for n, a in enumerate(found) if a.keep_class for label in a.family.labels}
        owner = {part: axis_of[int(labels[0])] for part, labels in enumerate(parts) if int(labels[0]) in axis_of}
        return _Balance(
            {part: int((~removed[labels]).sum()) for part, labels in enumerate(parts)},
            {part: len(labels) for part, labels in enumerate(parts)},
            {part: int((removed & ~before)[parts[part]].sum()) for part in owner},
            {},
            {part: found[n].round_to for part, n in owner.items()},
            {part: [p for p, m in owner.items() if m == n] for part, n in owner.items()},
        )

    def closes(self, equation: Constraint) -> bool | None:
        """Raise counts until an equation holds; whether any had to be. None, and nothing raised, if that is no help."""
        before = [dict(counts) for counts in (self.kept, self.room, self.back)]
        changed = False
        while gap := equation.gap(self.kept):
            able = [p for p in equation.raising(gap) if self.room.get(p)]
            able = able or [p for p in equation.parts if self.room.get(p)]
            if not able:
                for counts, old in zip((self.kept, self.room, self.back), before, strict=True):
                    counts.clear()
                    counts.update(old)
                return None
            self._raise(max(able, key=lambda p: (self.room[p] / self.sizes[p], -p)))
            changed = True
        return changed

    def _raise(self, part: int) -> None:
        """A portion of a part comes back; the whole family where less than a portion is left."""
        step = self.steps[part]
        portions = {part: step} if self.room[part] >= step else {p: self.room[p] for p in self.families[part]}
        for p, count in portions.items():
            self.kept[p] += count
            self.room[p] -= count
            self.back[p] = self.back.get(p, 0) + count
