"""Operators that look up, write, recur and gather, one at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.structure.operators import case


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def written(x: Tensor, write: object) -> Tensor:
    """A copy of `x`, a view of it changed in place, and the copy read again."""
    y = x + 0
    write(y)  # type: ignore[operator]
    return y * 2


def masked(x: Tensor) -> Tensor:
    return x[torch.tensor([True, False, True, True])]


LOOKED_UP = (
    case("index the first", (5, 3), fn=lambda x: x[ints(0, 4, 2)], free=3, barrier="it is indexed"),
    case("index the last", (5, 3), fn=lambda x: x[:, ints(0, 2)], free=5),
    case("index by a grid", (3, 5, 4), fn=lambda x: x[:, ints(0, 4, 2, 2).view(2, 2)], free=7),
    case("indices side by side", (3, 5, 5, 4), fn=lambda x: x[:, ints(0, 4), ints(1, 3)], free=7),
    case("indices apart", (5, 3, 5, 4), fn=lambda x: x[ints(0, 4), :, ints(1, 3)], free=7),
    case("indices apart, later", (4, 5, 3, 5), fn=lambda x: x[:, ints(0, 4), :, ints(1, 3)], free=7),
    case("index that is a number", (3, 5, 4), fn=lambda x: x[:, torch.tensor(2)], free=11),
    case("index by a mask", (4, 3), fn=masked, free=3),
    case("index by a mask of two", (2, 2, 3), fn=lambda x: x[torch.tensor([[True, False], [True, True]])], free=3),
    case("index by a mask and a number", (4, 5, 3), fn=lambda x: x[torch.ones(4) > 0, ints(0, 1, 1, 3)], free=3),
    case("index_select", (5, 3), fn=lambda x: x.index_select(0, ints(0, 4, 2)), free=3),
    case("gather", (5, 3), fn=lambda x: x.gather(0, ints(0, 4, 2, 1, 1, 3).view(2, 3)), free=3),
    case("gather from equals", (5, 3), (4, 3), fn=lambda x, y: x.gather(0, (y * 0).long()), free=7),
    case("gather from more", (5, 4), (4, 3), fn=lambda x, y: x.gather(0, (y * 0).long()), free=8),
    case("take_along_dim", (5, 3), (4, 1), fn=lambda x, y: x.take_along_dim((y * 0).long(), 0), free=7),
    case("take_along_dim, flat", (5, 3), fn=lambda x: x.take_along_dim(ints(3, 1)), free=0),
    case("nonzero", (5, 3), fn=lambda x: (x * 1).nonzero(), free=0, barrier="reads every entry"),
    case("masked_select", (5, 3), fn=lambda x: x.masked_select(x > 0), free=0),
    case("embedding bag", (5, 3), fn=lambda w: F.embedding_bag(ints(0, 1, 4), w, ints(0, 1)), free=3),
    case("diagonal", (4, 4), fn=torch.diagonal, free=4),
    case("diagonal of an oblong", (2, 4, 6), fn=lambda x: x.diagonal(0, 1, 2), free=8),
    case("diagonal off the main one", (4, 4), fn=lambda x: x.diagonal(1), free=0, barrier="not the main one"),
    case("diag_embed", (3, 4), fn=torch.diag_embed, free=3),
    case("tril", (3, 4, 4), fn=torch.tril, free=3),
    case("triu", (3, 4, 4), fn=lambda x: x.triu(1), free=3),
    case("windows", (3, 6), fn=lambda x: x.unfold(1, 3, 2), free=3, barrier="windows"),
)
WRITES = (
    case("write a row", (4, 3), fn=lambda x: written(x, lambda y: y[1].mul_(2)), free=6),
    case("write a range", (4, 3), (2, 3), fn=lambda x, v: written(x, lambda y: y[1:3].copy_(v)), free=7),
    case("write columns", (4, 3), (4, 2), fn=lambda x, v: written(x, lambda y: y[:, :2].add_(v)), free=7),
    case("write transposed", (4, 3), (3, 4), fn=lambda x, v: written(x, lambda y: y.t().add_(v)), free=7),
    case(
        "write a part of a view",
        (4, 6),
        (4, 2),
        fn=lambda x, v: written(x, lambda y: y.view(4, 3, 2)[:, 1].add_(v)),
        free=8,
    ),
    case("fill", (4, 3), fn=lambda x: written(x, lambda y: y[1:].fill_(2)), free=7),
    case("slice_scatter", (6, 3), (2, 3), fn=lambda x, v: x.slice_scatter(v, 0, 1, 3), free=9),
    case("slice_scatter of all", (4, 3), (4, 3), fn=lambda x, v: x.slice_scatter(v), free=7),
    case("select_scatter", (6, 3), (6,), fn=lambda x, v: x.select_scatter(v, 1, 1), free=8, barrier="one index"),
    case("scatter", (5, 3), (2, 3), fn=lambda x, v: x.scatter(0, (v * 0).long(), v), free=3),
    case("scatter a number", (5, 3), fn=lambda x: x.scatter(0, ints(1, 0, 2).view(1, 3), 2.0), free=3),
    case("scatter_add", (5, 4), (2, 3), fn=lambda x, v: x.scatter_add(0, (v * 0).long(), v), free=4),
    case("index_add", (5, 3), (2, 3), fn=lambda x, v: x.index_add(0, ints(1, 4), v), free=3, barrier="given indices"),
    case("index_copy", (3, 5), (3, 2), fn=lambda x, v: x.index_copy(1, ints(1, 4), v), free=3),
    case("index_fill", (3, 5), fn=lambda x: x.index_fill(1, ints(1, 4), 2.0), free=3),
    case("index_put", (5, 3), (2, 3), fn=lambda x, v: x.index_put((ints(1, 4),), v), free=3),
    case(
        "index_put apart",
        (5, 3, 5),
        (2, 3),
        fn=lambda x, v: written(x, lambda y: y.__setitem__((ints(1, 4), slice(None), ints(0, 2)), v)),
        free=3,
    ),
    case(
        "index_put a number",
        (3, 5),
        fn=lambda x: written(x, lambda y: y.__setitem__((slice(None), ints(1, 4)), 2.0)),
        free=3,
    ),
    case(
        "write by a mask",
        (4, 3),
        (3,),
        fn=lambda x, v: written(x, lambda y: y.__setitem__(ints(1, 0, 1, 1) > 0, v)),
        free=3,
    ),
)


def lstm(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Any:
    return torch.lstm(x, (h, c), params, len(params) == 4, 1, 0.0, False, False, True)


RECURRENT = (
    case("lstm", (2, 3, 5), (1, 2, 4), (1, 2, 4), (16, 5), (16, 4), (16,), (16,), fn=lstm, free=9, barrier="positions"),
    case("lstm, projected", (2, 3, 5), (1, 2, 3), (1, 2, 8), (32, 5), (32, 3), (3, 8), fn=lstm, free=16),
    case(
        "gru both ways",
        *((2, 3, 5), (2, 3, 4), (12, 5), (12, 4), (12, 5), (12, 4)),
        fn=lambda x, h, *params: torch.gru(x, h, params, False, 1, 0.0, False, True, False),
        free=9,
    ),
    case(
        "rnn of two layers",
        *((2, 3, 5), (2, 2, 4), (4, 5), (4, 4), (4,), (4,), (4, 4), (4, 4), (4,), (4,)),
        fn=lambda x, h, *params: torch.rnn_tanh(x, h, params, True, 2, 0.0, False, False, True),
        free=9,
    ),
    case(
        "lstm cell",
        (2, 5),
        (2, 4),
        (2, 4),
        (16, 5),
        (16, 4),
        fn=lambda x, h, c, *w: torch.lstm_cell(x, (h, c), *w),
        free=11,
    ),
    case("gru cell", (2, 5), (2, 4), (12, 5), (12, 4), (12,), (12,), fn=torch.gru_cell, free=11),
    case("rnn cell", (2, 5), (2, 4), (4, 5), (4, 4), (4,), (4,), fn=torch.rnn_tanh_cell, free=11),
)
IMAGE = (2, 4, 6, 6)


def grid(x: Tensor) -> Tensor:
    theta = torch.tensor([[[1.0, 0.1, 0], [0, 0.9, 0.2]]] * 2, dtype=torch.float64)
    return F.grid_sample(x, F.affine_grid(theta, [2, 4, 5, 5], False), align_corners=False)


@torch.library.custom_op("fprune_unit::roi_align", mutates_args=())
def roi_align(input: Tensor, rois: Tensor, size: int) -> Tensor:
    """The mean of each region `(sample, x0, y0, x1, y1)`, repeated: torchvision's operator in short."""
    cut = [input[int(n), :, int(a) : int(b), int(c) : int(d)].mean((1, 2)) for n, a, c, b, d in rois.tolist()]
    return torch.stack(cut)[:, :, None, None].repeat(1, 1, size, size)


@roi_align.register_fake
def _(input: Tensor, rois: Tensor, size: int) -> Tensor:
    return input.new_empty(len(rois), input.shape[1], size, size)


@torch.library.custom_op("fprune_unit::deform_conv2d", mutates_args=())
def deform_conv2d(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, groups: int, offset_groups: int
) -> Tensor:
    """A convolution under a mask: the signature of torchvision's operator in short."""
    return F.conv2d(input, weight, bias, padding=1, groups=groups) * mask + offset


@deform_conv2d.register_fake
def _(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, groups: int, offset_groups: int
) -> Tensor:
    return input.new_empty(input.shape[0], weight.shape[0], *input.shape[2:])


def boxes(x: Tensor) -> Tensor:
    rois = torch.tensor([[0.0, 0, 0, 2, 3], [1, 1, 1, 3, 3], [1, 0, 1, 2, 4]])
    return torch.ops.fprune_unit.roi_align(x, rois, 2)


def deformed(x: Tensor, weight: Tensor, bias: Tensor, offset_groups: int = 1) -> Tensor:
    zero, one = torch.zeros(1, 1, 6, 6, dtype=x.dtype), torch.ones(1, 1, 6, 6, dtype=x.dtype)
    return torch.ops.fprune_unit.deform_conv2d(x, weight, zero, one, bias, 1, offset_groups)


WINDOWS = (
    case("regions", IMAGE, fn=boxes, free=4, barrier="gathers these positions"),
    case("deformed", IMAGE, (5, 4, 3, 3), (5,), fn=deformed, free=11),
    case("deformed in groups", IMAGE, (5, 4, 3, 3), (5,), fn=lambda *a: deformed(*a, offset_groups=2), free=0),
    case("im2col", IMAGE, fn=lambda x: F.unfold(x, 3, padding=1), free=6, barrier="gathers these positions"),
    case("col2im", (2, 36, 4), fn=lambda x: F.fold(x, (4, 4), 3), free=6),
    case("max unpool", IMAGE, fn=lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), free=6),
    case("grid_sample", IMAGE, fn=grid, free=4),
    case("cosine similarity", (2, 4, 3), (2, 4, 3), fn=lambda x, y: F.cosine_similarity(x, y), free=9),
    case("cosine similarity, of a row", (2, 4), (1, 4), fn=lambda x, y: F.cosine_similarity(x, y), free=6),
    case(
        "cosine similarity, repeated",
        (2, 4),
        (2, 1),
        fn=lambda x, y: F.cosine_similarity(x, y),
        free=2,
        barrier="repeats",
    ),
    case("cdist", (2, 3, 4), (2, 5, 4), fn=torch.cdist, free=14),
    case("cdist, largest", (3, 4), (5, 4), fn=lambda x, y: torch.cdist(x, y, float("inf")), free=12),
    case("weight norm", (4, 3, 2), (4, 1, 1), fn=torch._weight_norm, free=5, barrier="no norm to divide by"),
    case("weight norm of all", (4, 3, 2), (), fn=lambda v, g: torch._weight_norm(v, g, -1), free=9),
    case("weight norm by places", (4, 3, 2), (1, 1, 2), fn=lambda v, g: torch._weight_norm(v, g, 2), free=7),
    case(
        "batch statistics", (2, 3, 5), (3,), (3,), fn=lambda x, w, b: F.batch_norm(x, None, None, w, b, True), free=10
    ),
    case("layer norm of blocks", (2, 3, 4), (3, 4), (3, 4), fn=lambda x, w, b: F.layer_norm(x, (3, 4), w, b), free=9),
)
CASES = LOOKED_UP + WRITES + RECURRENT + WINDOWS
ALIASES = frozenset(
    """_unsafe_index _index_put_impl argwhere unique_dim _unique2 unique_consecutive bincount scatter_reduce
    index_reduce rnn_relu rnn_relu_cell max_unpool3d grid_sampler_2d grid_sampler_3d
    max_pool3d_with_indices""".split()
)
"""Rules that share their function with one that is tried."""
