"""Recurrent layers after surgery: their sizes are those of their weights."""

from typing import Any

from fprune.errors import StructureError
from fprune.structure.graph import Node
from fprune.structure.recurrent import cells
from fprune.structure.rewrite import Cut, rewrite


@rewrite("lstm")
def _lstm(cut: Cut, node: Node, **bound: Any) -> Node:
    projection = cells(node.bound)[0][0].w_hr
    if projection is not None and len(set(cut.shape(projection))) == 1:
        raise StructureError(
            f"{node}: a projection to as many entries as there are hidden units, which torch takes for none",
            hint="prune one unit more, or one less, of the projection",
        )
    return node
