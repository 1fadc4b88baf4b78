"""The program after surgery: the same calls, with the sizes that changed written anew.

Invariant: every value of the new program equals the masked program's value restricted to its kept indices. Only
operators that carry sizes in their arguments need a rule; all others follow their inputs.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from fprune.structure.decide import Decision
from fprune.structure.graph import Node, Ref, Shape
from fprune.structure.labels import Bools
from fprune.structure.trace import Structure


@attrs.frozen(eq=False)
class Cut:
    """Which indices of every value stay."""

    structure: Structure
    decision: Decision

    def kept(self, ref: Ref | int, dim: int) -> Bools:
        """Which indices of a dimension of a value stay."""
        index = ref if isinstance(ref, int) else ref.index
        rows = self.structure.rows[index]
        return self.decision.kept(rows[dim % len(rows)])

    def shape(self, ref: Ref | int) -> Shape:
        """The new shape of a value."""
        rows = self.structure.rows[ref if isinstance(ref, int) else ref.index]
        return tuple(int(self.decision.kept(r).sum()) for r in rows)

    def old(self, ref: Ref | int) -> Shape:
        """The old shape of a value."""
        return self.structure.graph.shapes[ref if isinstance(ref, int) else ref.index]

    def changed(self, ref: Ref | int) -> bool:
        """Whether a value gets smaller."""
        return self.shape(ref) != self.old(ref)

    def tensor(self, index: int, value: Tensor) -> Tensor:
        """A tensor restricted to what stays."""
        for dim, rows in enumerate(self.structure.rows[index]):
            kept = self.decision.kept(rows)
            if not kept.all():
                value = value.index_select(dim, torch.from_numpy(np.flatnonzero(kept)).to(value.device))
        return value


Rewrite: TypeAlias = Callable[..., Node]
REWRITES: dict[str, Rewrite] = {}


def rewrite(*names: str) -> Callable[[Rewrite], Rewrite]:
    """Register how an operator's arguments change: `fn(cut, node, **bound) -> Node`."""

    def register(fn: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(names, fn))
        return fn

    return register


def called(node: Node, **changes: Any) -> Node:
    """The call with some arguments changed, by schema name."""
    names = list(node.bound)
    args = tuple(changes.get(name, value) for name, value in zip(names, node.args, strict=False))
    late = {name: value for name, value in changes.items() if name not in names[: len(args)]}
    return attrs.evolve(node, args=args, kwargs={**node.kwargs, **late}, bound={**node.bound, **changes})


def replaced(node: Node, op: Callable[..., Any], name: str | None = None, **bound: Any) -> Node:
    """Another call in its place, all arguments positional."""
    return attrs.evolve(node, op=op, name=name or node.name, args=tuple(bound.values()), kwargs={}, bound=bound)
