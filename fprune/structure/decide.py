"""Which units may go without changing what the masked model computes."""

from collections.abc import Mapping

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.bools import any_along, both, is_any
from fprune.masks import Masks
from fprune.structure.flow import Sink
from fprune.structure.known import Along, Known
from fprune.structure.labels import Bools, Ints, touched
from fprune.structure.stand_in import has_stand_ins, standing
from fprune.structure.trace import Structure
from fprune.structure.transfers.contraction import bias_name, is_unpadded, taps
from fprune.structure.wide import widened


@attrs.frozen(eq=False)
class Decision:
    """The units that go.

    Args:
        removed: `removed[label]`.
        refused: family name -> how many of its masked units stay, and the call that needs them.
    """

    removed: Bools
    refused: Mapping[str, tuple[int, str]]

    def kept(self, rows: Ints) -> Bools:
        """Which indices of a dimension stay."""
        return ~touched(self.removed, rows)


def masked_units(structure: Structure, masks: Masks, shapes: Mapping[str, tuple[int, ...]]) -> Bools:
    """The units that masks ask to remove: every entry of one of their slices is masked.

    Examples:
        >>> import torch
        >>> from fprune import Masks, Model, inputs
        >>> from fprune.structure import masked_units, trace
        >>> model = Model.from_module(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
        >>> structure = trace(model, inputs(torch.ones(1, 4)))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [False], [True]])})
        >>> asked = masked_units(structure, masks, {name: tuple(value.shape) for name, value in model.items()})
        >>> asked[structure.families[0].labels].tolist()
        [False, True, False]

    Args:
        structure: the couplings.
        masks: True where an entry is kept.
        shapes: shapes of the masked parameters.

    Returns:
        Bool, `(labels,)`: True for the label of each unit to remove.
    """
    asked = np.zeros(structure.labels, np.bool_)
    dead: dict[tuple[str, int], Bools] = {}
    for family in structure.families:
        for part in family.slices:
            if part.tensor not in masks:
                continue
            key = (part.tensor, part.dim)
            if key not in dead:
                dead[key] = _dead(masks[part.tensor], part.dim, shapes[part.tensor])
            asked[family.labels] |= dead[key][part.index].all(1)
    return asked


def _dead(mask: Tensor, dim: int, shape: tuple[int, ...]) -> Bools:
    """Indices along `dim` with no kept entry."""
    full = mask.reshape((1,) * (len(shape) - mask.ndim) + tuple(mask.shape)).movedim(dim, 0)
    alive = any_along(full.reshape(full.shape[0], -1), 1)
    return ~alive.expand(shape[dim]).cpu().numpy()


def decide(
    structure: Structure, masks: Masks, values: Mapping[int, Known], shapes: Mapping[str, tuple[int, ...]]
) -> Decision:
    """The greatest set of masked units whose removal is exact.

    Assume that every masked unit goes; give back those whose removal a sink would notice; repeat until nothing changes.
    Starting from the empty set would stop too early: a depthwise convolution needs its own unit gone to let it go.

    Args:
        structure: the couplings.
        masks: the masks in force.
        values: what is known of each value of the masked model.
        shapes: shapes of parameters and buffers.
    """
    removed = masked_units(structure, masks, shapes)
    asked = removed.copy()
    reasons: dict[int, str] = {}
    look = _Look(structure, values)
    changed = True
    while changed:
        changed = False
        for number, sink in reversed(list(enumerate(structure.sinks))):  # from the outputs back
            for lost, why in look.lost(number, sink, removed):
                held = sink.rows[lost]
                held = held[removed[held]]
                removed[held] = False
                reasons.update(dict.fromkeys(held.tolist(), f"{why} {sink.node}"))
                changed |= len(held) > 0
        changed |= _refill(structure, removed, reasons)
    refused: dict[str, tuple[int, str]] = {}
    for family in structure.families:
        lost = family.labels[asked[family.labels] & ~removed[family.labels]]
        if len(lost):
            refused[family.name] = (len(lost), reasons[int(lost[0])])
    return Decision(removed, refused)


def _refill(structure: Structure, removed: Bools, reasons: dict[int, str]) -> bool:
    """Give back one unit of every dimension that would be empty."""
    changed = False
    for dims in structure.rows.values():
        for rows in dims:
            if rows.any() and touched(removed, rows).all():
                removed[rows[0]] = False
                reasons.update(dict.fromkeys(rows[0].tolist(), "the last slice of a dimension stays"))
                changed = True
    return changed


class _Look:
    """What sinks ask, answered once."""

    def __init__(self, structure: Structure, values: Mapping[int, Known]) -> None:
        self._structure = structure
        self._values = values
        self._along: dict[tuple[int, int], Along] = {}
        self._reach: dict[Sink, Tensor] = {}
        self._active: dict[tuple[int, int], tuple[Tensor, list[int]]] = {}
        self._stand_ins = has_stand_ins(structure)

    def lost(self, number: int, sink: Sink, removed: Bools) -> list[tuple[Bools, str]]:
        """Which indices of a sink may not go, given what else goes, and why."""
        gone = touched(removed, sink.rows)
        lost = gone & ~self.exact(sink, removed)
        if number not in self._stand_ins or not lost.any():
            return [(lost, "a value that is not 0 enters")]
        along = self._constants(sink.value, sink.dim)
        folded, chosen = standing(along, sink.node.bound["groups"], lost, ~gone)
        rest = lost & ~folded & ~chosen
        return [(rest, "a value that is not 0 enters"), (chosen, "it stands in for the constants that enter")]

    def exact(self, sink: Sink, removed: Bools) -> Bools:
        """Which indices of a sink may go, given what else goes."""
        ok = self._vanishes(sink.value, sink.dim, removed)
        for value, dim in sink.others:
            ok = ok | self._vanishes(value, dim, removed)
        if sink.weight is not None and sink.out is not None and not self._values[sink.weight].tainted:
            ok = ok | ~self._reaches(sink, sink.weight, ~touched(removed, sink.out))
            if takes_constants(self._structure, sink):
                along = self._constants(sink.value, sink.dim)
                ok = ok | (~along.taint & along.constant)
        return ok.cpu().numpy()

    def _constants(self, value: int, dim: int) -> Along:
        if (value, dim) not in self._along:
            self._along[value, dim] = self._values[value].along(dim)
        return self._along[value, dim]

    def _vanishes(self, value: int, dim: int, removed: Bools) -> Tensor:
        """Which slices of a value are 0 whatever the input, at the indices of the other dimensions that stay."""
        rows = self._structure.rows[value]
        if (value, dim) not in self._active:
            known = self._values[value]
            active = known.taint | known.nonzero
            told = [d for d in range(active.ndim) if d != dim and active.shape[d] > 1]
            free = [d for d in told if rows[d].any()]
            whole = [d for d in told if d not in free]
            active = any_along(active, whole, keepdim=True)
            self._active[value, dim] = active, free
        active, free = self._active[value, dim]
        for d in free:
            kept = torch.from_numpy(np.flatnonzero(~touched(removed, rows[d]))).to(active.device)
            active = any_along(active.index_select(d, kept), d, keepdim=True)
        return ~active.reshape(-1).expand(len(rows[dim]))

    def _reaches(self, sink: Sink, weight: int, kept: Bools) -> Tensor:
        """Which input channels have a non-zero weight to a kept output."""
        if sink not in self._reach:
            self._reach[sink] = any_along(taps(sink.node, self._values[weight].nonzero), 3)
        reach = self._reach[sink]
        outputs = torch.from_numpy(kept).to(reach.device).view(reach.shape[0], reach.shape[1], 1)
        return any_along(both(reach, outputs), 1).flatten()


def takes_constants(structure: Structure, sink: Sink) -> bool:
    """Whether a layer's bias, or one made for it, can take over the constants of removed channels."""
    bias = sink.node.bound.get(bias_name(sink.node))
    return (
        sink.weight is not None and is_unpadded(sink.node) and (bias is None or bias.index in structure.graph.tensors)
    )


def folds(structure: Structure, decision: Decision, values: Mapping[int, Known]) -> dict[int, Tensor]:
    """Constants that removal would lose, as additions to the bias of the layer that used them.

    Returns:
        Sink number -> one addition per (original) output channel.
    """
    out: dict[int, Tensor] = {}
    for number, sink in enumerate(structure.sinks):
        gone = ~decision.kept(sink.rows)
        if sink.weight is None or not gone.any() or not takes_constants(structure, sink):
            continue
        along = values[sink.value].along(sink.dim)
        lost = torch.from_numpy(gone).to(along.taint.device) & ~along.taint & along.nonzero
        if not is_any(lost):
            continue
        w = widened(taps(sink.node, values[sink.weight].value)).sum(3)
        delta = (w * torch.where(lost, along.value, 0).view(w.shape[0], 1, w.shape[2])).sum(2).flatten()
        if delta.any():
            out[number] = delta
    return out
