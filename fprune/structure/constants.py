"""Which values of a masked model do not depend on its inputs, and what they are.

An abstract run of the recorded program. Each value carries a bool tensor, "depends on the input", and, where it does
not, the constant, in double precision. Both are broadcastable to the value's shape: a channel that is masked everywhere
is one entry, whatever the image size, so the run costs little more than a look at the weights. Probing with random
inputs would not be sound (a ReLU that is dead on the sample looks constant), nor would NaN (0 * NaN is NaN).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fprune.structure import transfers as _transfers
from fprune.structure.graph import Graph, Node, run, substitute
from fprune.structure.known import Known
from fprune.structure.operators import is_pointwise
from fprune.structure.transfers.registry import TRANSFER, executed, pointwise
from fprune.structure.wide import precise, widened

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
    like = widened(like[(0,) * like.ndim] if like.numel() else like)
    env: dict[int, Known] = {index: Known.nothing(graph.shapes[index], like) for index in graph.inputs}
    env.update({index: Known.constant(tensors[name]) for index, name in graph.tensors.items()})
    env.update({index: Known.constant(tensor) for index, tensor in graph.constants.items()})

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known | list[Known]:
        shapes = tuple(graph.shapes[index] for index in node.outs)
        operands = [env[index] for index in node.inputs]
        out = None
        depends = any(x.tainted for x in operands) or _is_random(node) or node.name in _OWN_WAY
        with nullcontext() if depends and _stays_wide(node) else precise(like.device):
            if graph.unsure(node):  # numbers computed from the inputs are no constants
                out = any_of(operands[0], node.bound["dim"]) if node.name == "select" else None
            elif not depends:
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


def _stays_wide(node: Node) -> bool:
    """Whether a call on wide values gives wide ones by itself; the wide mode costs time."""
    named = node.name in _WIDE or (node.name not in TRANSFER and is_pointwise(node))
    return named and not any(isinstance(value, torch.dtype) for value in node.bound.values())


_WIDE = frozenset(
    """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm batch_norm prelu mul
    multiply div divide true_divide cat concat concatenate stack view reshape _unsafe_view flatten unflatten
    squeeze unsqueeze permute transpose t split split_with_sizes chunk unbind select slice expand
    channel_shuffle max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d mean sum""".split()
)
"""Operators whose transfer functions widen what they read of parameters, or only move and combine wide values."""


def any_of(x: Known, dim: int) -> Known:
    """What is known of an index that nobody knows: what all of them have in common."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    first = x.value.narrow(dim, 0, 1)
    taint = x.taint.any(dim) | (x.value != first).any(dim)
    return Known.of(taint, first.squeeze(dim), shape)


def _is_random(node: Node) -> bool:
    """Whether a call draws numbers, or leaves memory as it is: no constant, even if no input reaches it."""
    if node.name in _UNWRITTEN:
        return True
    draws = torch.Tag.nondeterministic_seeded in getattr(node.op, "tags", ())
    return draws and node.bound.get("train", True) and node.bound.get("training", True)
