"""Operators that repeat: each repetition is a slot, and one slot of every index can go."""

from typing import Any

from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import Ints, frozen


@rule("repeat", "tile")
def repeat(flow: Flow, node: Node, self: Ref, **sizes: list[int]) -> Dims:
    """(slot, index) along each dimension that is repeated."""
    ((name, times),) = sizes.items()
    ndim = len(flow.shape(node.out))
    x = [*(frozen(1) for _ in range(ndim - len(flow.shape(self)))), *flow.dims(self)]
    lead = ndim - len(times)
    stays = [*(True for _ in range(lead)), *flow.follows(node, name)]
    out: Dims = []
    for d, (rows, n) in enumerate(zip(x, [*(1 for _ in range(lead)), *times], strict=True)):
        out.append(flow.labels.merge([_slots(flow, n, stays[d] or d == 0), rows]) if n != 1 else rows)
    return out


@rule("repeat_interleave")
def repeat_interleave(flow: Flow, node: Node, self: Ref, repeats: Any, dim: int | None = None, **_: Any) -> Dims | None:
    """(index, slot) along the dimension."""
    if dim is None or not isinstance(repeats, int):
        return None
    x = flow.dims(self)
    d = dim % len(x)
    x[d] = flow.labels.merge([x[d], _slots(flow, repeats, d == 0)])
    return x


def _slots(flow: Flow, n: int, stay: bool) -> Ints:
    """A label for each repetition; those of the batch are kept."""
    return frozen(n) if stay else flow.labels.fresh(n)
