"""Operators that rearrange: views by common refinement, everything else by where the elements go."""

from itertools import pairwise
from math import prod
from typing import Any

import torch

from fprune.structure.flow import Dims, Flow, index_map, refs_in, rule
from fprune.structure.graph import Node, Ref, Shape
from fprune.structure.labels import Ints, concatenated, frozen


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def view(flow: Flow, node: Node, self: Ref, **bound: Any) -> Dims | None:
    """Common refinement of the old and the new factorisation."""
    if "dtype" in bound:  # reinterprets the bytes
        return None
    old, new = flow.shape(self), flow.shape(node.out)
    out = [frozen(n) for n in new]
    if 0 in old:
        flow.freeze(flow.dims(self), node, "an empty tensor")
        return out
    x = flow.dims(self)
    for before, after in blocks(old, new):
        rows = refined(flow, node, [x[d] for d in before], [new[d] for d in after])
        for d, row in zip(after, rows, strict=True):
            out[d] = row
    return out


def blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions, sizes of 1 left out, that a view maps onto each other."""
    i_all = [d for d, n in enumerate(old) if n != 1]
    j_all = [d for d, n in enumerate(new) if n != 1]
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(i_all):
        i_end, j_end = i + 1, j + 1
        a, b = old[i_all[i]], new[j_all[j]]
        while a != b:
            if a < b:
                a, i_end = a * old[i_all[i_end]], i_end + 1
            else:
                b, j_end = b * new[j_all[j_end]], j_end + 1
        out.append((i_all[i:i_end], j_all[j:j_end]))
        i, j = i_end, j_end
    return out


def refined(flow: Flow, node: Node, rows: list[Ints], sizes: list[int]) -> list[Ints]:
    """Labels of one run of dimensions, refactored: split into the common factors, then merge those."""
    old = [len(row) for row in rows]
    cuts = sorted({*_cuts(old), *_cuts(sizes)})
    if any(b % a for a, b in pairwise(cuts)):
        flow.freeze(rows, node, f"sizes {old} and {sizes} have no common refinement")
        return [frozen(n) for n in sizes]
    parts: dict[int, Ints] = {}  # by the product of everything inside the factor
    inner = 1
    for row in reversed(rows):
        inner, outer = inner * len(row), inner
        inside = [c for c in cuts if outer <= c <= inner]
        factors = [b // a for a, b in pairwise(inside)]
        split = flow.labels.split(row, factors[::-1])[::-1] if len(factors) > 1 else [row]
        parts.update(zip(inside, split, strict=False))
    out: list[Ints] = []
    inner = 1
    for n in reversed(sizes):
        inner, outer = inner * n, inner
        inside = [parts[c] for c in cuts if outer <= c < inner]
        out.append(flow.labels.merge(inside[::-1]) if len(inside) > 1 else inside[0])
    return out[::-1]


def _cuts(sizes: list[int]) -> list[int]:
    out, inner = [1], 1
    for n in reversed(sizes):
        inner *= n
        out.append(inner)
    return out


@rule("squeeze", "unsqueeze")
def squeeze(flow: Flow, node: Node, self: Ref, **_: Any) -> Dims:
    """Dimensions of size 1 come and go, the others pass."""
    rest = iter([rows for rows in flow.dims(self) if len(rows) != 1])
    return [frozen(1) if n == 1 else next(rest) for n in flow.shape(node.out)]


@rule("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT")
def permute(flow: Flow, node: Node, **_: Any) -> Dims:
    """The permutation is found by running the operator on a tensor whose sizes are all different."""
    x = flow.dims(Ref(node.inputs[0]))
    probe = torch.empty(list(range(2, len(x) + 2)), device="meta")
    return [x[n - 2] for n in node.op(probe, *node.args[1:], **node.kwargs).shape]


@rule("cat", "concat", "concatenate")
def cat(flow: Flow, node: Node, tensors: list[Ref], dim: int = 0) -> Dims:
    """Laid end to end along `dim`, coupled along the others."""
    ndim = len(flow.shape(node.out))
    parts = [flow.dims(ref) for ref in tensors if len(flow.shape(ref)) == ndim]  # torch skips legacy empty tensors
    out: Dims = []
    for d in range(ndim):
        rows = [dims[d] for dims in parts]
        if d == dim % ndim:
            out.append(concatenated([flow.labels.resolve(row) for row in rows]))
        else:
            for row in rows[1:]:
                flow.labels.unify(rows[0], row)
            out.append(rows[0])
    return out


@rule("stack")
def stack(flow: Flow, node: Node, tensors: list[Ref], dim: int = 0) -> Dims:
    """Coupled along every dimension; the new one is kept."""
    x = flow.broadcast([flow.dims(ref) for ref in tensors], node)
    d = dim % (len(x) + 1)
    return [*x[:d], frozen(len(tensors)), *x[d:]]


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def split(flow: Flow, node: Node, self: Ref, dim: int = 0, **_: Any) -> list[Dims]:
    """Each piece takes its own indices."""
    x = flow.dims(self)
    d, start = dim % len(x), 0
    out: list[Dims] = []
    for index in node.outs:
        end = start + flow.shape(index)[d]
        out.append([*x[:d], x[d][start:end], *x[d + 1 :]])
        start = end
    return out


@rule("unbind")
def unbind(flow: Flow, node: Node, self: Ref, dim: int = 0) -> list[Dims]:
    """The dimension is taken apart one by one: it is kept."""
    x = flow.dims(self)
    d = dim % len(x)
    flow.freeze([x[d]], node, "it takes the dimension apart")
    return [[*x[:d], *x[d + 1 :]] for _ in node.outs]


@rule("select")
def select(flow: Flow, node: Node, self: Ref, dim: int, index: int) -> Dims:
    """The chosen index is kept, its neighbours need not be."""
    x = flow.dims(self)
    d = dim % len(x)
    flow.freeze([x[d][[index]]], node, "it picks one index of a dimension")
    return [*x[:d], *x[d + 1 :]]


@rule("slice")
def slices(
    flow: Flow, node: Node, self: Ref, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Dims:
    """The range takes its own indices."""
    x = flow.dims(self)
    d = dim % len(x)
    return [*x[:d], x[d][slice(start, end, step)], *x[d + 1 :]]


@rule("narrow")
def narrow(flow: Flow, node: Node, self: Ref, dim: int, start: int, length: int) -> Dims:
    """The range takes its own indices."""
    x = flow.dims(self)
    d = dim % len(x)
    return [*x[:d], x[d][start : start + length], *x[d + 1 :]]


@rule("expand", "broadcast_to")
def expand(flow: Flow, node: Node, self: Ref, size: list[int], **_: Any) -> Dims:
    """Dimensions of the same size pass. A repeated one can follow what it meets, unless its size stays."""
    x, shape = flow.dims(self), flow.shape(node.out)
    fixed = flow.follows(node, "size")
    out = [frozen(n) if stays else flow.labels.fresh(n) for n, stays in zip(shape, fixed, strict=True)]
    lead = len(shape) - len(x)
    return [
        *out[:lead],
        *(rows if len(rows) == n else new for rows, n, new in zip(x, shape[lead:], out[lead:], strict=True)),
    ]


@rule("expand_as")
def expand_as(flow: Flow, node: Node, self: Ref, other: Ref) -> Dims:
    """Repeated to the size of another value, which it then follows."""
    return flow.broadcast([flow.dims(self), flow.dims(other)], node)


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def factory(flow: Flow, node: Node, size: list[int], **_: Any) -> Dims:
    """One number everywhere: its sizes can follow what it meets, unless they are read from sizes that are kept."""
    return [
        frozen(n) if stays else flow.labels.fresh(n) for n, stays in zip(size, flow.follows(node, "size"), strict=True)
    ]


@rule("arange", "linspace", "eye")
def sequence(flow: Flow, node: Node, **_: Any) -> Dims:
    """Numbers that are the same in every run: a constant, which can be cut like one."""
    return [flow.labels.fresh(n) for n in flow.shape(node.out)]


@rule("channel_shuffle")
def channel_shuffle(flow: Flow, node: Node, self: Ref, groups: int) -> Dims:
    """(group, place) becomes (place, group): whole groups go, or one place of every group."""
    x = flow.dims(self)
    group, place = flow.labels.split(x[1], [groups, len(x[1]) // groups])
    return [x[0], flow.labels.merge([place, group]), *x[2:]]


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(flow: Flow, node: Node, self: Ref, **factor: int) -> Dims:
    """Channels and pixels pass; the places within a pixel are kept, since their number is the operator's factor."""
    (r,) = factor.values()
    x = flow.dims(self)
    spread = [(x[-3], [-1, r, r])] if node.name == "pixel_shuffle" else [(x[-2], [-1, r]), (x[-1], [-1, r])]
    for rows, (_, *sizes) in spread:
        _, *within = flow.labels.split(rows, [len(rows) // prod(sizes), *sizes])
        flow.freeze(within, node, "the places within a pixel stay")
    return index_map(flow, node, self, lambda x: node.op(x, r))


@rule("flip", "roll")
def moved(flow: Flow, node: Node, **_: Any) -> Dims | None:
    """Pure index maps: found by running the operator on the elements' own indices."""
    sources = refs_in((node.args, dict(node.kwargs)))
    if len(sources) != 1 or not isinstance(node.args[0], Ref):
        return None
    return index_map(flow, node, sources[0], lambda x: node.op(x, *node.args[1:], **node.kwargs))
