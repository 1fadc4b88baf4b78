"""How constants pass through operators that write into part of a value, or fill it."""

from typing import Any, cast

import torch
from torch import Tensor

from fprune.bools import any_along
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.transfers.registry import Bound, transfer


@transfer("overwritten")
def overwritten(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """The entries that lie in the written tensor are its entries now, the others stay."""
    value, written, overlap = bound["value"], bound["written"], bound["overlap"]
    if overlap is None or (value.taint.all() and written.taint.all()):
        return None
    index = torch.from_numpy(overlap.index()).to(value.taint.device)

    def merged(old: Tensor, new: Tensor) -> Tensor:
        whole = new.expand(written.shape).reshape(-1).to(old.dtype)
        return _told_apart(torch.where(index < 0, old.expand(value.shape), whole[index.clamp(min=0)]))

    return Known.of(merged(value.taint, written.taint), merged(value.value, written.value), shapes[0])


def _told_apart(tensor: Tensor) -> Tensor:
    """Dimensions along which all entries are equal, cut down to 1."""
    for d in range(tensor.ndim):
        first = tensor.narrow(d, 0, min(1, tensor.shape[d]))
        tensor = first if tensor.shape[d] > 1 and bool((tensor == first).all()) else tensor
    return tensor


@transfer("copy")
def copy(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Nothing is left of what was there."""
    old, new = bound["self"], bound["src"]
    lead = [1] * (len(old.shape) - len(new.shape))
    value = new.value.reshape(*lead, *new.value.shape).to(old.value.dtype)
    return Known.of(new.taint.reshape(*lead, *new.taint.shape), value, shapes[0])


@transfer("fill", "zero", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def filled(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """Nothing is left of what was there."""
    value = _FILLS.get(node.name, bound.get("value", bound.get("fill_value")))
    old, ones = bound["self"].value, [1] * len(shapes[0])
    if isinstance(value, Known):
        return Known.of(value.taint.reshape(ones), value.value.reshape(ones).to(old.dtype), shapes[0])
    full = old.new_full(ones, value, dtype=bound.get("dtype") or old.dtype)
    return Known.of(full.new_zeros(ones, dtype=torch.bool), full, shapes[0])


_FILLS: dict[str, Any] = {"zero": 0, "zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1}


@transfer("where")
def where(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """Under a constant condition only the operand that is chosen matters."""
    condition: Known = bound["condition"]
    if condition.tainted or not node.single:
        return None
    a, b = bound["self"], bound["other"]
    taint = torch.where(condition.value, _taint(a, condition), _taint(b, condition))
    value = cast("Tensor", torch.where(condition.value, *(k.value if isinstance(k, Known) else k for k in (a, b))))
    return Known.of(taint, value, shapes[0])


def _taint(operand: Any, like: Known) -> Tensor:
    """The taint of an operand; of a number, none."""
    return operand.taint if isinstance(operand, Known) else like.taint.new_zeros(())


@transfer("masked_fill")
def masked_fill(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """Under a constant mask nothing is left of what was there."""
    x, mask, value = bound["self"], bound["mask"], bound["value"]
    if mask.tainted:
        return None
    held = torch.masked_fill(x.value, mask.value, value.value if isinstance(value, Known) else value)
    return Known.of(torch.where(mask.value, _taint(value, mask), x.taint), held, shapes[0])


@transfer("index_add")
def index_add(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """Where every row that is added has a 0, nothing changes; which rows are hit is not asked."""
    x, source = bound["self"], bound["source"]
    added = any_along(source.taint | (source.value != 0), bound["dim"] % len(x.shape), keepdim=True)
    return Known.of(x.taint | added, x.value, shapes[0])
