"""How constants pass through look-ups."""

from typing import Any

import torch
from torch import Tensor

from fprune.structure.arguments import entries
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known, mapped
from fprune.structure.transfers.registry import Bound, transfer


@transfer("embedding")
def embedding(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known:
    """A column that is the same for the whole vocabulary is a constant."""
    return _anywhere(bound["weight"], 0, len(bound["indices"].shape), shapes[0])


@transfer("embedding_bag")
def embedding_bag(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> list[Known]:
    """A column that is 0 for the whole vocabulary is 0."""
    zero = bound["weight"].along(1).zero.view(1, -1)
    like = bound["weight"].value
    rest = [Known.nothing(shape, like) for shape in shapes[1:]]
    return [Known.of(~zero, torch.zeros_like(zero, dtype=like.dtype), shapes[0]), *rest]


@transfer("index", "_unsafe_index", "index_select", "gather", "take_along_dim")
def looked_up(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | None:
    """By constant indices: the operator runs on the taint. By others: what is the same wherever they look."""
    x, *others = [entry for entry in entries(dict(bound)) if isinstance(entry, Known)]
    if x.taint.all() or not x.shape:
        return None
    if not any(k.tainted for k in others):
        return _by_constants(node, bound, x, shapes[0])
    if node.name == "index_select":
        return _anywhere(x, bound["dim"] % len(x.shape), 1, shapes[0])
    if node.name in ("index", "_unsafe_index") and len(others) == 1:
        at = next(d for d, entry in enumerate(bound["indices"]) if entry is not None)
        ndim = len(others[0].shape)
        if len(shapes[0]) == len(x.shape) - 1 + ndim:
            return _anywhere(x, at, ndim, shapes[0])
    return None


def _by_constants(node: Node, bound: Bound, x: Known, shape: Shape) -> Known:
    def on(value: Tensor) -> Any:
        given = mapped(dict(bound), lambda k: (value if k is x else k.value).expand(k.shape))
        args = list(given.values())[: len(node.args)]
        return node.op(*args, **{name: given[name] for name in node.kwargs})

    return Known(on(x.taint), on(x.value), shape)


def _anywhere(x: Known, dim: int, ndim: int, shape: Shape) -> Known:
    """Whichever entry of `dim` is taken, `ndim` dimensions of indices come in its place."""
    wide = x.over([dim])
    first = wide.value.narrow(dim, 0, 1)
    taint = wide.taint.any(dim, keepdim=True) | (wide.value != first).any(dim, keepdim=True)

    def spread(tensor: Tensor) -> Tensor:
        return tensor.reshape([*tensor.shape[:dim], *([1] * ndim), *tensor.shape[dim + 1 :]])

    return Known.of(spread(taint), spread(first), shape)
