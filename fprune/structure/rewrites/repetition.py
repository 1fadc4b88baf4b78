"""How often operators repeat after surgery."""

from typing import Any

from fprune.structure.graph import Node, Ref
from fprune.structure.rewrite import Cut, called, rewrite


@rewrite("repeat", "tile")
def _repeat(cut: Cut, node: Node, self: Ref, **sizes: list[int]) -> Node:
    ((name, times),) = sizes.items()
    new, old = cut.shape(node.out)[-len(times) :], cut.shape(self)
    before = [*(1 for _ in range(len(times) - len(old))), *old][-len(times) :]
    return called(node, **{name: [n // m if m else t for n, m, t in zip(new, before, times, strict=True)]})


@rewrite("repeat_interleave")
def _repeat_interleave(cut: Cut, node: Node, self: Ref, dim: int, output_size: int | None, **_: Any) -> Node:
    new, old = cut.shape(node.out)[dim], cut.shape(self)[dim]
    sized = {} if output_size is None else {"output_size": new}
    return called(node, repeats=new // old, **sized)
