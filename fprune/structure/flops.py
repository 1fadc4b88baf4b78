"""Floating-point operations of one call, from shapes alone: 2 for each multiply and add of a product."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeAlias

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fprune.structure.graph import Node, Ref, Shape, substitute

Shapes: TypeAlias = Callable[[int], Shape]
"""The shape of a value, by number."""
Formula: TypeAlias = Callable[..., int]


def flops(node: Node, shape: Shapes) -> int:
    """The floating-point operations of one call: multiplications and additions of products, as torch counts them.

    Everything else (activations, norms, additions of biases) counts 0, as in torch's own counter. Operators that are
    made of products, such as an LSTM, and those a formula was registered for, are run on the meta device under it.

    Args:
        node: the call.
        shape: shapes of its operands and results.
    """
    formula = _FORMULAS.get(node.name)
    if formula is not None:
        return 2 * formula(_Shaped(node, shape))
    if node.name in _COMPOSED or getattr(node.op, "overloadpacket", None) in flop_registry:
        return _measured(node, shape)
    return 0


class _Shaped:
    """Shapes of a call's operands by schema name."""

    def __init__(self, node: Node, shape: Shapes) -> None:
        self._node, self._shape = node, shape

    def __getitem__(self, name: str) -> Shape:
        return self._shape(self._node.bound[name].index)

    @property
    def operands(self) -> list[Shape]:
        return [self._shape(value.index) for value in self._node.bound.values() if isinstance(value, Ref)]

    @property
    def out(self) -> Shape:
        return self._shape(self._node.out)


def _convolution(of: _Shaped) -> int:
    return prod(of.out) * prod(of["weight"][1:])


def _transposed(of: _Shaped) -> int:
    return prod(of["input"]) * prod(of["weight"][1:])


def _linear(of: _Shaped) -> int:
    return prod(of.out) * of["input"][-1]


def _product(of: _Shaped) -> int:
    return prod(of.out) * of.operands[0][-1]


def _sum_and_product(of: _Shaped) -> int:
    return prod(of.out) * of.operands[1][-1]


def _attention(of: _Shaped) -> int:
    """Queries with keys, then weights with values; a causal mask saves nothing, as in torch's counter."""
    positions, width = of["key"][-2], of["query"][-1]
    return prod(of.out[:-1]) * positions * (width + of.out[-1])


_FORMULAS: Mapping[str, Formula] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _sum_and_product),
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
}
"""Operator -> multiplications, each with an addition."""

_COMPOSED = frozenset(
    """einsum bilinear tensordot inner chain_matmul linalg_multi_dot lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell""".split()
)
"""Operators that torch's counter sees through."""


def _measured(node: Node, shape: Shapes) -> int:
    def empty(index: int) -> Any:
        return torch.empty(shape(index), device="meta")

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        node.op(*substitute(node.args, empty), **substitute(dict(node.kwargs), empty))
    return counter.get_total_flops()
