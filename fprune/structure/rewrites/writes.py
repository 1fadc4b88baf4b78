"""Places that are written, after surgery."""

from typing import Any

from fprune.errors import StructureError
from fprune.structure.graph import Node, Ref
from fprune.structure.rewrite import Cut, called, rewrite


@rewrite("overwritten")
def _overwritten(cut: Cut, node: Node, value: Ref, written: Ref, overlap: Any, **_: Any) -> Node:
    kept = [tuple(cut.kept(ref, d) for d in range(len(cut.old(ref)))) for ref in (value, written)]
    return node if overlap is None else called(node, overlap=overlap.cut(*kept))


@rewrite("slice_scatter")
def _slice_scatter(
    cut: Cut, node: Node, self: Ref, dim: int, start: int | None, end: int | None, step: int, **_: Any
) -> Node:
    kept = cut.kept(self, dim)
    if kept.all():
        return node
    low, high = slice(start, end, step).indices(len(kept))[:2]
    if step != 1:
        raise StructureError(f"{node}: writes a strided slice of which a part is cut")
    return called(node, start=int(kept[:low].sum()), end=int(kept[:high].sum()))


@rewrite("select_scatter")
def _select_scatter(cut: Cut, node: Node, self: Ref, dim: int, index: int, **_: Any) -> Node:
    kept = cut.kept(self, dim)
    return called(node, index=int(kept[:index].sum()) if index >= 0 else -int(kept[index:].sum()))
