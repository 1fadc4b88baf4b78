"""Groups of convolutions after surgery."""

from typing import Any

from fprune.structure.graph import Node, Ref
from fprune.structure.rewrite import Cut, called, rewrite


@rewrite("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _grouped(cut: Cut, node: Node, input: Ref, weight: Ref, groups: int, **_: Any) -> Node:
    if groups == 1:
        return node
    if node.name.startswith("conv_transpose"):
        return called(node, groups=cut.shape(node.out)[-len(cut.old(weight)) + 1] // cut.shape(weight)[1])
    return called(node, groups=cut.shape(input)[-len(cut.old(weight)) + 1] // cut.shape(weight)[1])
