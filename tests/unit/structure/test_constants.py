"""What is reported to be constant is constant, with that value: for each operator, and for masked networks."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune import Masks, Model, inputs
from fprune.structure.constants import known
from fprune.structure.graph import Graph, run
from fprune.structure.known import Known, squeezed
from fprune.structure.operators import placed
from fprune.structure.record import record
from fprune.structure.transfers.registry import TRANSFER
from tests.unit.structure.indexed import boxes, deformed
from tests.unit.structure.operators import tensors
from tests.zoo.drawn import Drawn, Program, programs


class Partly(nn.Module):
    """Channels of every sort: 0, a constant, a constant that varies over positions, and functions of the input.

    `scale * x + shift` with some scales 0 is what a masked layer leaves behind.
    """

    def __init__(self, fn: Callable[..., Any], shape: tuple[int, ...], extra: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        channels = [-1, *(1 for _ in shape[1:])]
        self.scale = nn.Parameter(torch.tensor([0, 0, 0, 0, 1.5, -2.0][: shape[0]], dtype=torch.float64).view(channels))
        shift = (
            torch.tensor([0, 0.5, -1.5, 0, 0.7, 0][: shape[0]], dtype=torch.float64)
            .view(channels)
            .repeat(1, *shape[1:])
        )
        shift[3] = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
        self.shift = nn.Parameter(shift)
        self.operands = nn.ParameterList([torch.randn(s, generator=generator, dtype=torch.float64) for s in extra])
        for param in self.operands:
            param.data.flatten()[::3] = 0
            if param.ndim > 1 and param.shape[1] == 6:
                param.data[1, 4:] = 0  # an output that reads constants only
            if param.shape == (6, 5):
                param.data[4:, 1] = 0
        self.fn = fn

    def forward(self, x: Tensor) -> Any:
        return self.fn(x * self.scale + self.shift, *self.operands)


@attrs.frozen
class Case:
    """An operator on a partly constant `(2, *shape)`; `complete` if all that is constant has to be found."""

    name: str
    fn: Callable[..., Any]
    shape: tuple[int, ...] = (6, 4)
    extra: tuple[tuple[int, ...], ...] = ()
    complete: bool = True


IMAGE = (6, 4, 4)


def attention(x: Tensor, key: Tensor, value: Tensor | None = None, **rest: Any) -> Tensor:
    """Queries from the input, keys and, if given, values from a parameter."""
    key = key.expand(2, *key.shape)
    return F.scaled_dot_product_attention(x, key, x if value is None else value.expand(2, *value.shape), **rest)


def squares(x: Tensor) -> Tensor:
    """The sum of squares over the positions, as a product."""
    return torch.einsum("bcp,bcp->bc", x, x)


def grouped_attention(x: Tensor) -> Tensor:
    """Two heads of keys and values, one of them 0, for four heads of queries."""
    heads = torch.stack([x[:, 0], torch.zeros_like(x[:, 0])], 1)
    return F.scaled_dot_product_attention(heads.repeat_interleave(2, 1), heads, heads, enable_gqa=True)


CASES = (
    Case("relu", F.relu, complete=False),
    Case("in place", lambda x: x.mul_(2).add_(1)),
    Case("sigmoid", torch.sigmoid),
    Case("hardtanh", F.hardtanh, complete=False),
    Case("add", lambda x, y: x + y, extra=((6, 1),)),
    Case("sub with a factor", lambda x, y: torch.sub(x, y, alpha=2), extra=((6, 4),)),
    Case("where", lambda x, y: torch.where(y > 0, x, y), extra=((4,),), complete=False),
    Case("clamp", lambda x: x.clamp(-1, 1), complete=False),
    Case("masked_fill", lambda x, y: x.masked_fill(y > 0, 2.0), extra=((6, 4),), complete=False),
    Case("lerp", lambda x, y: torch.lerp(x, y, 0.3), extra=((6, 4),)),
    Case("log of 0", lambda x: torch.log(x.abs()), complete=False),
    Case("dropout", lambda x: F.dropout(x, 0.5, False)),
    Case("zeros_like", torch.zeros_like, complete=False),
    Case("comparison", lambda x: (x > 100).double(), complete=False),
    Case("mul", lambda x, y: x * y, extra=((6, 4),)),
    Case("mul by itself", lambda x: x * x),
    Case("mul by a reversed one", lambda x: x * x.flip(1)),
    Case("mul by a number", lambda x: 3 * x),
    Case("multiply", torch.multiply, extra=((4,),)),
    Case("div", lambda x: x / (x.flip(1).abs() + 1)),
    Case("div by a number", lambda x: x / 2),
    Case("floor_div", lambda x: torch.div(x, x.abs() + 1, rounding_mode="floor"), complete=False),
    Case("reciprocal", lambda x: 1 / (x.abs() + 1)),
    Case("addcmul", lambda x, y: torch.addcmul(y, x, x.flip(1), value=2), extra=((6, 4),)),
    Case("addcmul, tainted", lambda x, y: torch.addcmul(x, x, y), extra=((6, 4),)),
    Case("addcdiv", lambda x, y: torch.addcdiv(y, x, x.flip(1).abs() + 1, value=2), extra=((6, 4),)),
    Case("glu", lambda x: F.glu(x, 1)),
    Case("prelu", F.prelu, extra=((6,),), complete=False),
    Case("prelu, one slope", F.prelu, extra=((1,),), complete=False),
    Case("linear", lambda x, w, b: F.linear(x, w, b), (6,), ((5, 6), (5,))),
    Case("linear on the last", lambda x, w: F.linear(x.transpose(1, 2), w), extra=((5, 6),), complete=False),
    Case("conv1d", lambda x, w, b: F.conv1d(x, w, b), extra=((3, 6, 2), (3,)), complete=False),
    Case("conv2d", lambda x, w, b: F.conv2d(x, w, b), IMAGE, ((8, 6, 1, 1), (8,)), complete=False),
    Case("conv2d, padded", lambda x, w: F.conv2d(x, w, padding=1), IMAGE, ((8, 6, 3, 3),), complete=False),
    Case("conv2d, same", lambda x, w: F.conv2d(x, w, padding="same"), IMAGE, ((8, 6, 3, 3),), complete=False),
    Case("conv2d, valid", lambda x, w: F.conv2d(x, w, padding="valid"), IMAGE, ((8, 6, 3, 3),), complete=False),
    Case("depthwise", lambda x, w, b: F.conv2d(x, w, b, groups=6), IMAGE, ((6, 1, 3, 3), (6,)), complete=False),
    Case("grouped", lambda x, w: F.conv2d(x, w, groups=3), IMAGE, ((9, 2, 1, 1),), complete=False),
    Case("conv3d", lambda x, w: F.conv3d(x, w), (6, 2, 2, 2), ((3, 6, 1, 1, 1),), complete=False),
    Case("transposed", lambda x, w, b: F.conv_transpose2d(x, w, b), IMAGE, ((6, 3, 2, 2), (3,)), complete=False),
    Case(
        "transposed, grouped", lambda x, w: F.conv_transpose2d(x, w, groups=3), IMAGE, ((6, 2, 2, 2),), complete=False
    ),
    Case("transposed 1d", lambda x, w: F.conv_transpose1d(x, w), extra=((6, 3, 2),), complete=False),
    Case("transposed 3d", lambda x, w: F.conv_transpose3d(x, w), (6, 2, 2, 2), ((6, 3, 1, 1, 1),), complete=False),
    Case("matmul", lambda x, w: x.transpose(1, 2) @ w, extra=((6, 5),)),
    Case("matmul from the left", lambda x, w: w @ x, extra=((5, 6),)),
    Case("matmul with itself", lambda x: x @ x.mT),
    Case("matmul by a vector", lambda x, w: x.mT @ w, extra=((6,),), complete=False),
    Case("vector by vector", lambda x, w: x[0] @ w, (6,), ((6,),), complete=False),
    Case("sum of what only repeats", lambda x, w: x[:, :3, :1].expand(2, 3, 4) @ w, extra=((4, 5),)),
    Case("sum of what repeats in both", lambda x: squares(x[:, :, :1].expand(2, 6, 4))),
    Case("mm", torch.mm, (6,), ((6, 5),)),
    Case("mv", lambda x, w: torch.mv(x, w), (6,), ((6,),), complete=False),
    Case("dot", lambda x, w: torch.dot(x[0, :3], w), (6,), ((3,),), complete=False),
    Case("vdot", lambda x, w: torch.vdot(x[0, :3], w), (6,), ((3,),), complete=False),
    Case("inner", lambda x, w: torch.inner(x.mT, w), extra=((5, 6),)),
    Case("outer", lambda x, w: torch.outer(x[0], w), (6,), ((5,),)),
    Case("ger", lambda x, w: torch.ger(x[0], w), (6,), ((5,),)),
    Case("tensordot", lambda x, w: torch.tensordot(x, w, ([1], [0])), extra=((6, 5),)),
    Case("bmm", lambda x, w: torch.bmm(w.expand(2, 5, 6), x), extra=((5, 6),)),
    Case("addmm", lambda x, b, w: torch.addmm(b, x, w, beta=2, alpha=3), (6,), ((5,), (6, 5))),
    Case("addmm of a masked bias", lambda x, w: torch.addmm(x[:, :5], x, w), (6,), ((6, 5),)),
    Case("addmv", lambda x, b, w: torch.addmv(b, x.mT[0], w), extra=((4,), (6,)), complete=False),
    Case("baddbmm", lambda x, b, w: torch.baddbmm(b, w.expand(2, 5, 6), x), extra=((5, 4), (5, 6))),
    Case("addbmm", lambda x, b, w: torch.addbmm(b, w.expand(2, 5, 6), x), extra=((5, 4), (5, 6))),
    Case("einsum", lambda x, w: torch.einsum("bcp,cd->bpd", x, w), extra=((6, 5),)),
    Case("einsum of three", lambda x, v, w: torch.einsum("bcp,c,dc->bpd", x, v, w), extra=((6,), (5, 6))),
    Case("einsum with dots", lambda x, w: torch.einsum("...cp,dc", x, w), extra=((5, 6),)),
    Case("einsum of one", lambda x: torch.einsum("bcp->cb", x)),
    Case("einsum of a diagonal", lambda x: torch.einsum("bpp->bp", x @ x.mT), complete=False),
    Case("attention", lambda x, w: attention(x.mT, w), extra=((4, 6),), complete=False),
    Case("attention, masked", lambda x, w: attention(x.mT, w, attn_mask=w[:, :4] > 0), extra=((4, 6),), complete=False),
    Case("attention, causal", lambda x, w: attention(x.mT, w, is_causal=True), extra=((4, 6),), complete=False),
    Case("attention, dropped", lambda x, w: attention(x.mT, w, dropout_p=0.5), extra=((4, 6),), complete=False),
    Case("attention, constant positions", lambda x, w: attention(x, w, w), extra=((6, 4),), complete=False),
    Case("attention, grouped", lambda x: grouped_attention(x.view(2, 1, 6, 4).mT), complete=False),
    Case("batch norm", lambda x, m, w, b: F.batch_norm(x, m, m * m + 1, w, b), extra=((6,),) * 3),
    Case("batch norm, plain", lambda x, m: F.batch_norm(x, m, m * m + 1), (6,), ((6,),)),
    Case("batch norm, training", lambda x: F.batch_norm(x, None, None, training=True), complete=False),
    Case("layer norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), extra=((4,), (4,)), complete=False),
    Case("layer norm, plain", lambda x: F.layer_norm(x, (4,)), complete=False),
    Case("layer norm of two", lambda x, w: F.layer_norm(x, (6, 4), w), extra=((6, 4),), complete=False),
    Case("rms norm", lambda x, w: F.rms_norm(x, (4,), w), extra=((4,),), complete=False),
    Case("group norm", lambda x, w, b: F.group_norm(x, 3, w, b), extra=((6,), (6,)), complete=False),
    Case("instance norm", lambda x, w, b: F.instance_norm(x, None, None, w, b), extra=((6,), (6,)), complete=False),
    Case("max pool", lambda x: F.max_pool2d(x, 2), IMAGE, complete=False),
    Case("max pool 1d", lambda x: F.max_pool1d(x, 2), complete=False),
    Case("average pool", lambda x: F.avg_pool2d(x, 2), IMAGE, complete=False),
    Case("average pool, padded", lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE, complete=False),
    Case("average pool, not counted", lambda x: F.avg_pool2d(x, 3, 2, 1, False, False), IMAGE, complete=False),
    Case("adaptive pool", lambda x: F.adaptive_avg_pool2d(x, 2), IMAGE, complete=False),
    Case("adaptive max pool", lambda x: F.adaptive_max_pool2d(x, 2), IMAGE, complete=False),
    Case("upsampling", lambda x: F.interpolate(x, scale_factor=2), IMAGE, complete=False),
    Case("bilinear", lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), IMAGE, complete=False),
    Case("pad", lambda x: F.pad(x, (1, 0)), complete=False),
    Case("pad with a number", lambda x: F.pad(x, (1, 1), value=0.5), complete=False),
    Case("pad by reflection", lambda x: F.pad(x, (1, 1), mode="reflect"), complete=False),
    Case("cat", lambda x, y: torch.cat([x, y.expand(2, 3, 4)], 1), extra=((3, 4),)),
    Case("cat along positions", lambda x: torch.cat([x, x.flip(1)], 2)),
    Case("stack", lambda x: torch.stack([x, x.flip(1)], 2)),
    Case("stack with a number", lambda x: torch.stack([x, torch.zeros_like(x)], -1), complete=False),
    Case("view", lambda x: x.view(2, 2, 3, 4)),
    Case("reshape", lambda x: x.transpose(1, 2).reshape(2, 24)),
    Case("flatten", lambda x: x.flatten(1)),
    Case("unflatten", lambda x: x.unflatten(1, (2, 3))),
    Case("unsqueeze and squeeze", lambda x: x.unsqueeze(1).squeeze()),
    Case("permute", lambda x: x.permute(2, 0, 1)),
    Case("movedim", lambda x: x.movedim(1, 2).mT),
    Case("t", lambda x: x.t(), (6,)),
    Case("split", lambda x: x.split([1, 5], 1)),
    Case("split alike", lambda x: x.split(4, 1)),
    Case("chunk", lambda x: x.chunk(2, 1)),
    Case("tensor_split", lambda x: x.tensor_split(4, 1)),
    Case("unbind", lambda x: x.unbind(1)),
    Case("select", lambda x: x[:, 3]),
    Case("slice", lambda x: x[:, 1::2]),
    Case("narrow", lambda x: x.narrow(1, 2, 3)),
    Case("view_as", lambda x: x.view_as(x.new_empty(2, 3, 8))),
    Case("reshape_as", lambda x: x.mT.reshape_as(x)),
    Case("expand_as", lambda x: x[:, :, :1].expand_as(x)),
    Case("expand", lambda x: x[:, None].expand(2, 3, 6, 4)),
    Case("roll", lambda x: x.roll(2, 1)),
    Case("flip", lambda x: x.flip(1, 2)),
    Case("repeat", lambda x: x.repeat(1, 2, 1)),
    Case("tile", lambda x: x.tile(1, 2, 1)),
    Case("repeat_interleave", lambda x: x.repeat_interleave(2, 1)),
    Case("pixel shuffle", lambda x: F.pixel_shuffle(x[:, 1:5], 2), IMAGE),
    Case("pixel unshuffle", lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    Case("channel shuffle", lambda x: F.channel_shuffle(x, 3), IMAGE),
    Case("mean", lambda x: x.mean((0, 2))),
    Case("mean, kept", lambda x: x.mean(1, keepdim=True)),
    Case("mean of all", lambda x: x.mean()),
    Case("sum", lambda x: x.sum(2)),
    Case("sum over the batch", lambda x: x.sum(0)),
    Case("norm", lambda x: x.norm(dim=2)),
    Case("norm by its old name", lambda x: torch.ops.aten.norm(x, 2, [2])),
    Case("norm of all", lambda x: x[:, :3].norm(), complete=False),
    Case("norm of order 1", lambda x: torch.linalg.vector_norm(x, 1, (0, 2), keepdim=True)),
    Case("normalize", lambda x: F.normalize(x, dim=2)),
    Case("var", lambda x: x.var(2)),
    Case("std, kept", lambda x: x.std(2, keepdim=True)),
    Case("var and mean", lambda x: torch.var_mean(x, (0, 2), correction=0)),
    Case("std and mean", lambda x: torch.std_mean(x, 2)),
    Case("amax", lambda x: x.amax((0, 2)), complete=False),
    Case("amin", lambda x: x.amin(-1, keepdim=True)),
    Case("softmax, unknown to the analysis", lambda x: x.softmax(1), complete=False),
    Case("embedding", lambda x, w: F.embedding(x.long().clamp(0, 2), w.clamp(0, 0)), extra=((3, 4),)),
    Case("a random draw", lambda x: x[:, 1] * torch.bernoulli(torch.full_like(x[:, 1], 0.5)), complete=False),
    Case("dropped for good", lambda x: F.dropout(x, 0.5, True), complete=False),
)


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def after(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    """A copy of `x`, a view of it changed in place, and the copy read again."""
    y = x + 0
    write(y)
    return y * 1


LOOKED_UP = (
    Case("index", lambda x: x[:, ints(0, 5, 2)]),
    Case("index twice", lambda x: x[:, ints(0, 5, 2), ints(0, 1, 0)]),
    Case("index by a mask", lambda x: x[:, ints(0, 1, 1, 0, 1, 0) > 0]),
    Case("index_select", lambda x: x.index_select(1, ints(0, 5, 2))),
    Case("gather", lambda x: x.gather(1, ints(0, 5, 2).view(1, 3, 1).expand(2, 3, 4))),
    Case("take_along_dim", lambda x: x.take_along_dim(ints(0, 5, 2).view(1, 3, 1), 1)),
    Case("index by the input", lambda x, w: w.clamp(0, 0)[x.long().clamp(0, 2)], extra=((3, 4),)),
    Case("index columns by the input", lambda x, w: w[:, x.long().clamp(0, 1)] * w[0, 0], extra=((3, 4),)),
    Case(
        "index_select by the input",
        lambda x, w: w.index_select(0, x[:, 4, 0].long().clamp(0, 2)),
        extra=((3, 4),),
        complete=False,
    ),
    Case(
        "embedding bag",
        lambda x, w: F.embedding_bag(x[:, :, 0].long().clamp(0, 2), w, mode="sum"),
        extra=((3, 4),),
        complete=False,
    ),
)
WRITES = (
    Case("write a row", lambda x: after(x, lambda y: y[:, 4].fill_(2))),
    Case("write a range", lambda x: after(x, lambda y: y[:, 3:5].copy_(y[:, :2]))),
    Case("write positions", lambda x: after(x, lambda y: y[:, :, 1].zero_())),
    Case("write transposed", lambda x, v: after(x, lambda y: y.mT.copy_(v)), extra=((4, 6),)),
    Case("write what depends on the input", lambda x: after(x, lambda y: y[:, :2].copy_(x[:, 4:]))),
    Case("copy", lambda x, v: torch.empty_like(x).copy_(v), extra=((6, 1),)),
    Case("copy integers", lambda x, v: after(v.long(), lambda y: y.copy_(v)), extra=((6, 1),), complete=False),
    Case("fill with a tensor", lambda x, v: (x + 0).fill_(v[0]), extra=((4,),)),
    Case("zero", lambda x: (x + 0).zero_()),
    Case("ones_like", torch.ones_like),
    Case("new_zeros", lambda x: x.new_zeros(3, 2)),
    Case("new_ones", lambda x: x.new_ones(2)),
    Case("new_full", lambda x: x.new_full((2, 3), 4)),
    Case("full_like", lambda x: torch.full_like(x, 3.0)),
    Case("where, known", lambda x, y: torch.where(y > 0, x, y), extra=((6, 4),)),
    Case("where, numbers", lambda x, y: torch.where(y > 0, x, 0.5), extra=((6, 1),)),
    Case("where, unknown", lambda x: torch.where(x > 0, x, x), complete=False),
    Case("masked_fill, known", lambda x, y: x.masked_fill(y > 0, 2.0), extra=((4,),)),
    Case("masked_fill in place", lambda x, y: (x + 0).masked_fill_(y > 0, y[0, 0]), extra=((6, 4),)),
    Case("add rows of zeros", lambda x: x.index_add(1, ints(4, 1), x[:, :1].expand(-1, 2, -1))),
    Case("add a constant row", lambda x: x.index_add(1, ints(0), x[:, 1:2]), complete=False),
    Case("add a row of the input", lambda x: x.index_add(1, ints(0), x[:, 4:5]), complete=False),
    Case("not written", lambda x: torch.empty_like(x) * 0, complete=False),
)


def apart(w_ih: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor]:
    """Weights under which the first and the last of 4 units read nothing but each other."""
    rows = torch.ones(len(w_ih) // 4, 4)  # of the gates, only the one that makes new content
    rows[2 if len(rows) > 1 else 0] = torch.tensor([0.0, 1, 1, 0])
    rows = rows.view(-1, 1)
    return w_ih * rows, (w_hh + 0.1) * (1 - torch.tensor([0.0, 1, 1, 0]) * (1 - rows))


def recurrent(kind: str, both: bool, start: float) -> Callable[..., Any]:
    def call(x: Tensor, w_ih: Tensor, w_hh: Tensor) -> Any:
        h = torch.full((2 if both else 1, 2, 4), start, dtype=x.dtype)
        params = [*apart(w_ih, w_hh)] * (2 if both else 1)
        return getattr(torch, kind)(x.mT, (h, h) if kind == "lstm" else h, params, False, 1, 0.0, False, both, True)

    return call


def cell(kind: str, start: float) -> Callable[..., Any]:
    def call(x: Tensor, w_ih: Tensor, w_hh: Tensor) -> Any:
        h = torch.full((2, 4), start, dtype=x.dtype)
        for step in (x[:, :, 0], x[:, :, 1]):
            made = getattr(torch, f"{kind}_cell")(step, (h, h) if kind == "lstm" else h, *apart(w_ih, w_hh))
            h = made[0] if kind == "lstm" else made
        return h

    return call


KINDS = (("lstm", 4), ("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1))
RECURRENT = tuple(
    Case(f"{kind} from {start}, {named}", fn, extra=((4 * gates, 6), (4 * gates, 4)), complete=False)
    for kind, gates in KINDS
    for start in (0.0, 0.5)
    for named, fn in (
        ("one way", recurrent(kind, False, start)),
        ("both ways", recurrent(kind, True, start)),
        ("a cell", cell(kind, start)),
    )
)


def sampled(x: Tensor) -> Tensor:
    theta = torch.tensor([[[1.0, 0.1, 0], [0, 0.9, 0.2]]] * 2, dtype=torch.float64)
    return F.grid_sample(x, F.affine_grid(theta, [2, 6, 4, 4], False), align_corners=False)


WINDOWS = (
    Case("im2col", lambda x: F.unfold(x, 3, padding=1), IMAGE, complete=False),
    Case("col2im", lambda x: F.fold(x.repeat_interleave(4, 1), (3, 3), 2), complete=False),
    Case("grid_sample", sampled, IMAGE, complete=False),
    Case("regions", lambda x: boxes(x), IMAGE, complete=False),
    Case(
        "deformed",
        lambda x, w, b: deformed(x.repeat(1, 1, 2, 2)[..., 1:7, 1:7], w * (b > 0)[:, None, None, None], b * (b > 0)),
        IMAGE,
        ((5, 6, 3, 3), (5,)),
        complete=False,
    ),
    Case("max unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), IMAGE, complete=False),
    Case("nearest exact", lambda x: F.interpolate(x, (7, 7), mode="nearest-exact"), IMAGE, complete=False),
    Case("nearest exact, in a line", lambda x: F.interpolate(x, 7, mode="nearest-exact"), complete=False),
    Case("antialias", lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True), IMAGE, complete=False),
)
CASES += LOOKED_UP + WRITES + RECURRENT + WINDOWS
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def executions(graph: Graph, values: dict[str, Tensor], shape: torch.Size, n: int = 3) -> list[dict[int, Tensor]]:
    out = []
    for seed in range(n):
        x = (1 + 3 * seed) * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        start = {graph.inputs[0]: x, **graph.constants, **{i: values[name] for i, name in graph.tensors.items()}}
        with torch.no_grad():
            out.append(_seen(graph, {index: value.clone() for index, value in start.items()}))
    return out


def _seen(graph: Graph, start: dict[int, Tensor]) -> dict[int, Tensor]:
    """Every value as it was when it was made, whatever is written into its memory later."""
    seen = {index: value.clone() for index, value in start.items()}

    def call(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = node.op(*placed(args, torch.device("cpu")), **placed(kwargs, torch.device("cpu")))
        seen.update(zip(node.outs, [t.clone() for t in ([out] if node.single else out)], strict=True))
        return out

    run(graph, call, start)
    return seen


def contradictions(found: dict[int, Known], runs: list[dict[int, Tensor]], graph: Graph) -> list[str]:
    """Calls with an element that is said to be constant and is not, or has another value."""
    wrong: list[str] = []
    for node in graph.nodes:
        for index in node.outs[: 1 if node.name == "embedding_bag" else None]:  # the others are for its gradient
            k = found[index]
            assert k.taint.ndim == k.value.ndim == len(k.shape), str(node)
            fixed = ~k.taint.expand(k.shape)
            for env in runs:
                off = (env[index].double() - k.value.expand(k.shape).double()).abs()
                same = (off < 1e-9) | (env[index] == k.value.expand(k.shape)) | env[index].isnan()
                if (fixed & ~same).any():
                    wrong.append(str(node))
    return wrong


def analysed(case: Case) -> tuple[Graph, dict[int, Known], list[dict[int, Tensor]]]:
    torch.manual_seed(0)
    model = Model.from_module(Partly(case.fn, case.shape, case.extra))
    x = torch.zeros(2, *case.shape, dtype=torch.float64)
    graph = record(model, inputs(x))
    found = known(graph, tensors(model))
    torch.manual_seed(1)
    return graph, found, executions(graph, tensors(model), x.shape)


@every
def test_untainted_means_constant(case: Case) -> None:
    graph, found, runs = analysed(case)
    assert contradictions(found, runs, graph) == []


@pytest.mark.parametrize("case", [c for c in CASES if c.complete], ids=lambda c: c.name)
def test_all_that_is_constant_is_found(case: Case) -> None:
    """Where the operator brings in no constants of its own."""
    graph, found, runs = analysed(case)
    some = False
    for index in graph.outputs:
        constant = (runs[0][index] == runs[1][index]) & (runs[0][index] == runs[2][index])
        assert torch.equal(~found[index].taint.expand(found[index].shape), constant)
        some = some or bool(constant.any())
    assert some or case.name in ("mean, kept", "mean of all")


@pytest.mark.parametrize(
    ("rest", "found"),
    [({}, [0.0, 0.5, -1.5]), ({"dropout_p": 0.5}, [0.0]), ({"attn_mask": torch.ones(4, 4) > 0}, [0.0])],
)
def test_attention_passes_what_is_the_same_at_every_key(rest: dict[str, Any], found: list[float]) -> None:
    """Channels 0 to 2 are constants, channel 3 varies over positions, 4 and 5 depend on the input."""
    graph, values, _ = analysed(Case("", lambda x, w: attention(x.mT, w, **rest), extra=((4, 6),)))
    along = values[graph.outputs[0]].along(2)
    assert along.value[~along.taint].tolist() == found


@pytest.mark.parametrize("case", RECURRENT, ids=lambda c: c.name)
def test_hidden_units_that_are_given_nothing_stay_0(case: Case) -> None:
    graph, found, runs = analysed(case)
    (index, *_) = graph.outputs
    zero = found[index].along(-1).zero
    rests = torch.tensor([True, False, False, True]).repeat(len(zero) // 4)
    assert zero.tolist() == (rests & ("from 0.0" in case.name)).tolist()
    assert (runs[0][index][..., ~rests] != runs[1][index][..., ~rests]).any()


@pytest.mark.parametrize("case", WINDOWS, ids=lambda c: c.name)
def test_channels_of_zeros_stay_zeros(case: Case) -> None:
    graph, found, runs = analysed(case)
    zero = found[graph.outputs[0]].along(1).zero
    still = torch.stack([(env[graph.outputs[0]] == 0).transpose(0, 1).flatten(1).all(1) for env in runs]).all(0)
    assert still.any() and torch.equal(zero, still)


def test_every_transfer_is_tried() -> None:
    tried = {node.name for case in CASES for node in analysed(case)[0].nodes}
    aliases = set(
        """divide true_divide max_pool3d avg_pool1d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool3d upsample_nearest1d upsample_nearest3d upsample_linear1d
        upsample_bicubic2d upsample_trilinear3d reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d constant_pad_nd concat concatenate _unsafe_view
        moveaxis swapaxes swapdims numpy_T broadcast_to max_pool2d split_with_sizes _unsafe_index
        grid_sampler_2d grid_sampler_3d max_unpool3d _upsample_bicubic2d_aa roi_pool max_pool3d_with_indices""".split()
    )
    assert set(TRANSFER) - tried - aliases == set()


@given(programs(), st.integers(0, 99), st.integers(0, 99))
def test_random_masked_networks(program: Program, seed: int, draw: int) -> None:
    model = Model.from_module(Drawn(program, seed))
    generator = torch.Generator().manual_seed(draw)
    masks = {}
    for name, param in model.items():
        if torch.rand((), generator=generator) < 0.7:
            shape = [param.shape[0], *(1 for _ in param.shape[1:])]
            masks[name] = (torch.rand(shape, generator=generator) < 0.5).expand(param.shape)
    masked = model.replace(Masks(masks).apply(model))
    graph = record(masked, inputs(torch.zeros(2, 4, 8, 8, dtype=torch.float64)))
    found = known(graph, tensors(masked))
    assert contradictions(found, executions(graph, tensors(masked), torch.Size((2, 4, 8, 8)), 2), graph) == []


def test_nothing_is_drawn_from_the_global_generator() -> None:
    model = Model.from_module(Partly(lambda x: x * torch.rand(6, 4, dtype=torch.float64), (6, 4), ()))
    graph = record(model, inputs(torch.zeros(2, 6, 4, dtype=torch.float64)))
    before = torch.get_rng_state()
    known(graph, tensors(model))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_row_of_constants_takes_one_entry() -> None:
    """Whatever the size of the image, a layer's output costs one entry a channel."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2)).double().eval()
    model = Model.from_module(net)
    graph = record(model, inputs(torch.zeros(1, 3, 64, 64, dtype=torch.float64)))
    found = known(graph, tensors(model))
    assert all(found[node.out].taint.numel() <= 4 for node in graph.nodes)


def test_along_a_dimension() -> None:
    taint = torch.tensor([[False], [True], [False], [False]])
    value = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 2.0], [0.0, 1.0]])
    along = Known(taint, value, (4, 2)).along(0)
    assert along.zero.tolist() == [True, False, False, False]
    assert along.taint.tolist() == [False, True, False, False]
    assert along.constant.tolist() == [True, True, True, False]
    assert along.value.tolist() == [0, 0, 2, 0]
    across = Known(taint, value, (4, 2)).along(1)
    assert across.taint.tolist() == [True, True] and not across.zero.any()


def test_repeated_dimensions_are_cut() -> None:
    tensor = torch.arange(3.0).view(1, 3, 1).expand(4, 3, 5)
    assert squeezed(tensor).shape == (1, 3, 1)
    assert squeezed(tensor.contiguous()).shape == (4, 3, 5)
