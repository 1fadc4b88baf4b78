"""Which values of a masked model do not depend on its inputs, and what they are.

An abstract run of the recorded program. Each value carries a bool tensor, "depends on the input", and, where it does
not, the constant. Both are broadcastable to the value's shape: a channel that is masked everywhere is one entry,
whatever the image size, so the run costs little more than a look at the weights. Probing with random inputs would not
be sound (a ReLU that is dead on the sample looks constant), nor would NaN (0 * NaN is NaN).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fprune.structure import transfers as _transfers
from fprune.structure.graph import Graph, Node, run, substitute
from fprune.structure.known import Known
from fprune.structure.operators import is_pointwise
from fprune.structure.transfers.registry import TRANSFER, executed, pointwise

_ = _transfers  # importing the package registers the transfer functions
_UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"))
_OWN_WAY = frozenset(("overwritten",))  # what it stands for is not what it gives when it is called alone


def known(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[int, Known]:
    """Run the program on what is known before any input is seen.

    Args:
        graph: the recorded program.
        tensors: parameters and buffers by name, masks applied.

    Returns:
        What is known of each value.
    """
    like = next((t for t in tensors.values() if t.is_floating_point()), next(iter(tensors.values())))
    env: dict[int, Known] = {index: Known.nothing(graph.shapes[index], like) for index in graph.inputs}
    env.update({index: Known.constant(tensors[name]) for index, name in graph.tensors.items()})
    env.update({index: Known.constant(tensor) for index, tensor in graph.constants.items()})

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known | list[Known]:
        shapes = tuple(graph.shapes[index] for index in node.outs)
        operands = [env[index] for index in node.inputs]
        out = None
        if node.out >= graph.unsure and node.numbers:
            pass  # numbers computed from the inputs are no constants
        elif node.name not in _OWN_WAY and not any(x.tainted for x in operands) and not _is_random(node):
            out = executed(node, args, kwargs, like.device)
        elif node.name in TRANSFER:
            bound = {name: substitute(value, env.__getitem__) for name, value in node.bound.items()}
            out = TRANSFER[node.name](node, bound, shapes)
        elif is_pointwise(node) and node.single and not _is_random(node):
            out = pointwise(node, args, kwargs, operands, shapes[0])
        if out is None:
            unknown = [Known.nothing(shape, like) for shape in shapes]
            return unknown[0] if node.single else unknown
        return out

    return run(graph, call, env)


def _is_random(node: Node) -> bool:
    """Whether a call draws numbers, or leaves memory as it is: no constant, even if no input reaches it."""
    if node.name in _UNWRITTEN:
        return True
    draws = torch.Tag.nondeterministic_seeded in getattr(node.op, "tags", ())
    return draws and node.bound.get("train", True) and node.bound.get("training", True)
