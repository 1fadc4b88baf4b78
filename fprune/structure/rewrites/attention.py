"""Attention after surgery."""

from typing import Any

from fprune.structure.graph import Node, Ref
from fprune.structure.rewrite import Cut, called, rewrite


@rewrite("scaled_dot_product_attention")
def _attention(cut: Cut, node: Node, query: Ref, scale: float | None, **_: Any) -> Node:
    """The default scale follows the width of the queries: it is pinned to the original one."""
    width = cut.old(query)[-1]
    return node if scale is not None or cut.shape(query)[-1] == width else called(node, scale=width**-0.5)
