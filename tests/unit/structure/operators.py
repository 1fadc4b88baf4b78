"""One operator at a time: a function of parameters, recorded as a program whose values are all free."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprune import Model
from fprune.inputs import Inputs
from fprune.structure.flow import Flow
from fprune.structure.record import record
from fprune.structure.trace import Structure

Shape = tuple[int, ...]


@attrs.frozen
class Case:
    """An operator on parameters of given shapes, and how many labels it must leave free.

    Args:
        name: the test's id.
        shapes: shapes of the parameters the function is given.
        fn: the function.
        free: how many indices can be removed independently of each other, counted by hand.
        barrier: what the barrier says, if there must be one.
    """

    name: str
    shapes: tuple[Shape, ...]
    fn: Callable[..., Any]
    free: int
    barrier: str = ""


class Applied(nn.Module):
    """A function of this module's own parameters."""

    def __init__(self, shapes: tuple[Shape, ...], fn: Callable[..., Any]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(len(shapes) + sum(map(sum, shapes)))
        draw = [torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5 for shape in shapes]
        self.operands = nn.ParameterList(draw)
        self.fn = fn

    def forward(self) -> Any:
        return self.fn(*self.operands)


def free_structure(net: nn.Module) -> tuple[Model, Structure, Flow]:
    """The structure of a module whose outputs hold nothing back."""
    model = Model.from_module(net)
    graph = attrs.evolve(record(model, Inputs()), outputs=())
    flow = Flow(graph)
    rows = {index: tuple(flow.labels.resolve(r) for r in dims) for index, dims in flow.values.items()}
    structure = Structure(graph, Inputs(), rows, tuple(flow.sinks), (), tuple(flow.barriers), flow.labels.count)
    return model, structure, flow


def case(name: str, *shapes: Shape, fn: Callable[..., Any], free: int, barrier: str = "") -> Case:
    return Case(name, shapes, fn, free, barrier)


IMAGE = (2, 4, 5, 5)
POINTWISE = (
    case("relu", (4, 3), fn=F.relu, free=7),
    case("in place", (4, 3), fn=lambda x: F.relu_(x + 0), free=7),
    case("add", (4, 3), (4, 3), fn=torch.add, free=7),
    case("add a row", (4, 3), (3,), fn=torch.add, free=7),
    case("add crosswise", (4, 1), (1, 3), fn=torch.add, free=7),
    case("where", (4, 3), (4, 3), (3,), fn=lambda a, b, c: torch.where(a > 1, b, c), free=7),
    case("dropout", (4, 3), fn=lambda x: F.dropout(x, 0.5, False), free=7),
    case("prelu", (2, 4, 3), (4,), fn=F.prelu, free=9),
    case("prelu, one slope", (2, 4, 3), (1,), fn=F.prelu, free=9),
    case("glu", (2, 8), fn=lambda x: F.glu(x, 1), free=6),
    case("maximum", (4, 3), (4, 3), fn=torch.maximum, free=7),
    case("max of two", (4, 3), (4, 3), fn=torch.max, free=7),
)
CONTRACTION = (
    case("conv1d", (2, 4, 7), (6, 4, 3), fn=F.conv1d, free=12, barrier="positions"),
    case("conv2d", IMAGE, (6, 4, 3, 3), (6,), fn=F.conv2d, free=12),
    case("conv2d, no batch", (4, 5, 5), (6, 4, 3, 3), fn=F.conv2d, free=10),
    case("conv3d", (2, 4, 3, 3, 3), (6, 4, 2, 2, 2), fn=F.conv3d, free=12),
    case("conv2d of single positions", IMAGE, (6, 4, 1, 1), (6,), fn=F.conv2d, free=22),
    case("conv2d of columns", IMAGE, (6, 4, 3, 1), fn=lambda x, w: F.conv2d(x, w, padding=(1, 0)), free=17),
    case("conv2d of every other", IMAGE, (6, 4, 1, 1), fn=lambda x, w: F.conv2d(x, w, stride=2), free=12),
    case("conv2d, padded", IMAGE, (6, 4, 1, 1), fn=lambda x, w: F.conv2d(x, w, padding=1), free=12),
    case("grouped", IMAGE, (6, 2, 3, 3), (6,), fn=lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2), free=9),
    case("depthwise", IMAGE, (4, 1, 3, 3), fn=lambda x, w: F.conv2d(x, w, groups=4), free=6),
    case("depthwise, twice", IMAGE, (8, 1, 3, 3), fn=lambda x, w: F.conv2d(x, w, groups=4), free=8),
    case("padding same", IMAGE, (6, 4, 3, 3), fn=lambda x, w: F.conv2d(x, w, padding="same"), free=12),
    case("transposed", IMAGE, (4, 6, 2, 2), (6,), fn=F.conv_transpose2d, free=12),
    case(
        "transposed, grouped",
        IMAGE,
        (4, 3, 2, 2),
        (6,),
        fn=lambda *a: F.conv_transpose2d(*a, stride=2, groups=2),
        free=9,
    ),
    case("transposed 1d", (2, 4, 5), (4, 6, 2), fn=F.conv_transpose1d, free=12),
    case("transposed 3d", (2, 4, 2, 2, 2), (4, 6, 2, 2, 2), fn=F.conv_transpose3d, free=12),
    case("linear", (2, 5, 4), (6, 4), (6,), fn=F.linear, free=17),
    case("linear, no bias", (4,), (6, 4), fn=F.linear, free=10),
    case("matmul", (2, 3, 4), (4, 5), fn=torch.matmul, free=14),
    case("matmul, batches", (2, 1, 3, 4), (5, 4, 6), fn=torch.matmul, free=20),
    case("matrix by vector", (3, 4), (4,), fn=torch.mv, free=7),
    case("vector by matrix", (4,), (4, 3), fn=torch.matmul, free=7),
    case("dot", (4,), (4,), fn=torch.dot, free=4),
    case("vdot", (4,), (4,), fn=torch.vdot, free=4),
    case("matmul, matrix by batches", (3, 4), (5, 4, 6), fn=torch.matmul, free=18),
    case("inner", (2, 4), (3, 4), fn=torch.inner, free=9),
    case("outer", (4,), (3,), fn=torch.outer, free=7),
    case("tensordot", (2, 3, 4), (4, 3, 5), fn=lambda a, b: torch.tensordot(a, b, ([1, 2], [1, 0])), free=14),
    case("addmv", (3,), (3, 4), (4,), fn=torch.addmv, free=7),
    case("addbmm", (3, 5), (2, 3, 4), (2, 4, 5), fn=torch.addbmm, free=14),
    case("einsum", (2, 3, 4), (4, 5), fn=lambda *x: torch.einsum("bnd,de->bne", *x), free=14),
    case("einsum of three", (2, 3), (2, 4), (2, 5), fn=lambda *x: torch.einsum("ra,rb,rc->abc", *x), free=14),
    case("einsum with dots", (2, 3, 4), (1, 4, 5), fn=lambda *x: torch.einsum("...ij,...jk", *x), free=14),
    case("einsum, a size of 1", (2, 3), (1, 4), fn=lambda *x: torch.einsum("ab,ac->bc", *x), free=9),
    case("einsum, transposed", (2, 3), fn=lambda x: torch.einsum("ij->ji", x), free=5),
    case("einsum, summed", (2, 3), fn=lambda x: torch.einsum("ij->i", x), free=5),
    case("einsum, diagonal", (3, 3), fn=lambda x: torch.einsum("ii->i", x), free=0, barrier="without a rule"),
    case("mm", (2, 3), (3, 5), fn=torch.mm, free=10),
    case("bmm", (2, 3, 4), (2, 4, 5), fn=torch.bmm, free=14),
    case("addmm", (5,), (2, 3), (3, 5), fn=torch.addmm, free=10),
    case("baddbmm", (2, 3, 5), (2, 3, 4), (2, 4, 5), fn=torch.baddbmm, free=14),
)
ASIDE = torch.tensor([1.0, 2, 4])
HEADS = (2, 3, 5, 4)  # batch, heads, positions, width


def attend(**rest: Any) -> Callable[..., Any]:
    return lambda *x: F.scaled_dot_product_attention(*x, **rest)


ATTENTION = (
    case("attention", HEADS, HEADS, HEADS, fn=attend(), free=13, barrier="positions"),
    case("attention, narrow values", HEADS, HEADS, (2, 3, 5, 6), fn=attend(), free=15),
    case("attention, cross", HEADS, (2, 3, 7, 4), (2, 3, 7, 4), fn=attend(), free=13),
    case("attention, one batch", (2, 3, 5, 4), (1, 3, 5, 4), (1, 3, 5, 4), fn=attend(), free=13),
    case("attention, scaled", HEADS, HEADS, HEADS, fn=attend(scale=0.3), free=13),
    case("attention, causal", HEADS, HEADS, HEADS, fn=attend(is_causal=True), free=13),
    case("attention, biased", HEADS, HEADS, HEADS, (3, 5, 5), fn=attend(), free=13),
    case("attention, biased alike", HEADS, HEADS, HEADS, (1, 5, 5), fn=attend(), free=13),
    case("attention, no heads", (2, 5, 4), (2, 5, 4), (2, 5, 4), fn=attend(), free=10),
    case("attention, grouped", (2, 6, 5, 4), HEADS, HEADS, fn=attend(enable_gqa=True), free=15),
    case("attention, one shared", (2, 6, 5, 4), (2, 1, 5, 4), (2, 1, 5, 4), fn=attend(enable_gqa=True), free=16),
)
NORMS = (
    case("batch norm", (2, 4, 3), (4,), (4,), (4,), (4,), fn=lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b), free=4),
    case("instance norm", (2, 4, 3), (4,), (4,), fn=lambda x, w, b: F.instance_norm(x, None, None, w, b), free=4),
    case("layer norm", (2, 3, 6), (6,), (6,), fn=lambda x, w, b: F.layer_norm(x, (6,), w, b), free=11),
    case("layer norm, plain", (2, 6), fn=lambda x: F.layer_norm(x, (6,)), free=8),
    case("layer norm of two", (2, 3, 6), fn=lambda x: F.layer_norm(x, (3, 6)), free=11),
    case("rms norm", (2, 3, 6), (6,), fn=lambda x, w: F.rms_norm(x, (6,), w, 1e-3), free=11),
    case("group norm, one", (2, 6, 3), (6,), (6,), fn=lambda x, w, b: F.group_norm(x, 1, w, b), free=8),
    case(
        "group norm", (2, 6, 3), (6,), (6,), fn=lambda x, w, b: F.group_norm(x, 3, w, b), free=5, barrier="of a group"
    ),
    case("group norm, each", (2, 6, 3), (6,), (6,), fn=lambda x, w, b: F.group_norm(x, 6, w, b), free=8),
)
REDUCTION = (
    case("mean", (2, 4, 3), fn=lambda x: x.mean((1, 2)), free=9),
    case("mean, kept", (2, 4, 3), fn=lambda x: x.mean(1, keepdim=True), free=9),
    case("mean of all", (2, 4), fn=torch.mean, free=6),
    case("sum", (2, 4, 3), fn=lambda x: x.sum(-2), free=9),
    case("softmax", (2, 4), fn=lambda x: x.softmax(1), free=2, barrier="every index"),
    case("cumsum", (2, 4), fn=lambda x: x.cumsum(0), free=4),
    case("amax", (2, 4, 3), fn=lambda x: x.amax((0, 2)), free=4),
    case("max along", (2, 4), fn=lambda x: x.max(1), free=2),
    case("sort", (2, 4), fn=lambda x: x.sort(1), free=2),
    case("std", (2, 4), fn=lambda x: x.std(1), free=6),
    case("std, kept", (2, 4), fn=lambda x: x.std(1, keepdim=True), free=6),
    case("var", (2, 4, 3), fn=lambda x: x.var((1, 2), correction=0), free=9),
    case("var of all", (2, 4), fn=torch.var, free=6),
    case("var, biased", (2, 4), fn=lambda x: torch.var(x, 1, unbiased=False, keepdim=True), free=6),
    case("var and mean", (2, 4, 3), fn=lambda x: torch.var_mean(x, (0, 2), correction=2), free=9),
    case("std and mean", (2, 4, 3), fn=lambda x: torch.std_mean(x, 1), free=9),
    case("norm", (2, 4, 3), fn=lambda x: x.norm(dim=1), free=9),
    case("norm by its old name", (2, 4), fn=lambda x: torch.ops.aten.norm(x, 3, [1]), free=6),
    case("norm of all", (2, 4), fn=lambda x: x.norm(), free=6),
    case("norm, order 3", (2, 4), fn=lambda x: torch.linalg.vector_norm(x, 3, 1), free=6),
    case("norm, the largest", (2, 4), fn=lambda x: torch.linalg.vector_norm(x, float("inf"), 1), free=6),
    case("norm, the smallest", (2, 4), fn=lambda x: torch.linalg.vector_norm(x, -float("inf"), 1), free=2),
    case("normalize", (2, 4), fn=lambda x: F.normalize(x, dim=1), free=6),
    case("topk", (2, 4), fn=lambda x: x.topk(2, 1), free=2),
    case("max pool", IMAGE, fn=lambda x: F.max_pool2d(x, 2), free=6, barrier="resamples"),
    case("average pool", IMAGE, fn=lambda x: F.avg_pool2d(x, 3, 1, 1), free=6),
    case("adaptive pool", IMAGE, fn=lambda x: F.adaptive_avg_pool2d(x, 1), free=6),
    case("upsampling", IMAGE, fn=lambda x: F.interpolate(x, scale_factor=2), free=6),
    case("bilinear", IMAGE, fn=lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), free=6),
    case("padded outside", (2, 4, 3), fn=lambda x: F.pad(x, (1, 1)), free=6, barrier="pads"),
    case("padded channels", (2, 4, 3), fn=lambda x: F.pad(x, (0, 0, 1, 0)), free=5),
    case("embedding", (5, 4), fn=lambda w: F.embedding(torch.tensor([[1, 4, 1]]), w), free=4, barrier="indexed"),
)


def repeated(x: Tensor, n: int) -> Tensor:
    """Each column `n` times, as keys are repeated for grouped queries."""
    return x[:, :, None].expand(*x.shape, n)


SHAPE = (
    case("view, apart", (2, 6), fn=lambda x: x.view(2, 2, 3), free=7),
    case("view, together", (2, 3, 4), fn=lambda x: x.view(2, 12), free=9),
    case("view, across", (4, 6), fn=lambda x: x.view(8, 3), free=9),
    case("view, refused", (4, 6), fn=lambda x: x.view(6, 4), free=0, barrier="no common refinement"),
    case("view with -1", (2, 6), fn=lambda x: x.view(-1, 3), free=7),
    case("reshape", (2, 3, 4), fn=lambda x: x.transpose(0, 1).reshape(3, 8), free=9),
    case("flatten", (2, 3, 4), fn=lambda x: x.flatten(1), free=9),
    case("unflatten", (2, 6), fn=lambda x: x.unflatten(1, (3, 2)), free=7),
    case("squeeze", (4, 1, 3), fn=torch.squeeze, free=7),
    case("squeeze one", (4, 1, 3), fn=lambda x: x.squeeze(1), free=7),
    case("squeeze nothing", (4, 3), fn=lambda x: x.squeeze(0), free=7),
    case("unsqueeze", (4, 3), fn=lambda x: x.unsqueeze(1), free=7),
    case("permute", (2, 3, 4), fn=lambda x: x.permute(2, 0, 1), free=9),
    case("transpose", (2, 3, 4), fn=lambda x: x.transpose(-1, 0), free=9),
    case("t", (2, 3), fn=torch.t, free=5),
    case("mT", (2, 3, 4), fn=lambda x: x.mT, free=9),
    case("movedim", (2, 3, 4), fn=lambda x: x.movedim(0, 2), free=9),
    case("cat", (2, 3), (4, 3), fn=lambda *x: torch.cat(x), free=9),
    case("cat along the last", (3, 2), (3, 4), fn=lambda *x: torch.cat(x, -1), free=9),
    case("stack", (2, 3), (2, 3), fn=lambda *x: torch.stack(x, 1), free=5),
    case("split", (6, 2), fn=lambda x: x.split([2, 4]), free=8),
    case("split alike", (6, 2), fn=lambda x: x.split(4), free=8),
    case("chunk", (6, 2), fn=lambda x: x.chunk(3), free=8),
    case("chunk along the last", (2, 6), fn=lambda x: x.chunk(2, -1), free=8),
    case("tensor_split", (7, 2), fn=lambda x: x.tensor_split(2), free=9),
    case("narrow", (6, 2), fn=lambda x: x.narrow(0, 1, 3), free=8),
    case("slice", (6, 2), fn=lambda x: x[1:-1], free=8),
    case("slice with a step", (7, 2), fn=lambda x: x[1::2], free=9),
    case("select", (5, 3), fn=lambda x: x[2], free=7, barrier="picks one index"),
    case("select from the end", (5, 3), fn=lambda x: x[-2], free=7),
    case("unbind", (3, 4), fn=lambda x: x.unbind(), free=4, barrier="takes the dimension apart"),
    case("expand", (3, 1), fn=lambda x: x.expand(3, 4), free=3),
    case("expand in front", (3,), fn=lambda x: x.expand(2, 3), free=3),
    case("expand, met", (3, 1), (4,), fn=lambda x, y: x.expand(3, 4) + y, free=7),
    case("expand in the middle, merged", (2, 3), (2, 12), fn=lambda x, y: repeated(x, 4).reshape(2, 12) + y, free=9),
    case("expand in front, met", (3,), (2, 3), fn=lambda x, y: x.expand(2, 3) + y, free=5),
    case("expand_as", (1, 3), (4, 3), fn=lambda x, y: x.expand_as(y) + y, free=7),
    case("expand_as alone", (1, 3), (4, 3), fn=lambda x, y: x.expand_as(y), free=7),
    case("broadcast_to", (3, 1), (4,), fn=lambda x, y: x.broadcast_to(3, 4) + y, free=7),
    case("zeros", (4, 3), fn=lambda x: torch.cat([x, torch.zeros(2, 3).double()]), free=7),
    case("ones", (4, 3), fn=lambda x: x + torch.ones(4, 3).double(), free=7),
    case("full", (4, 3), fn=lambda x: x * torch.full((4, 1), 0.5).double(), free=7),
    case("new_zeros", (4, 3), fn=lambda x: torch.stack([x, x.new_zeros(4, 3)]), free=7),
    case("new_ones", (4, 3), fn=lambda x: x - x.new_ones(3), free=7),
    case("new_full", (4, 3), fn=lambda x: x - x.new_full((3,), 7.0), free=7),
    case("arange", (4, 3), fn=lambda x: x + torch.arange(3.0), free=7),
    case("linspace", (4, 3), fn=lambda x: x + torch.linspace(0, 1, 3), free=7),
    case("eye", (4, 3), fn=lambda x: x + torch.eye(4, 3), free=7),
    case("a tensor kept aside", (4, 3), fn=lambda x: x * ASIDE, free=7),
    case("repeat", (3, 2), fn=lambda x: x.repeat(2, 1), free=5),
    case("repeat, met", (3, 2), (3, 8), fn=lambda x, y: x.repeat(1, 4) + y, free=9),
    case(
        "repeat in front", (3, 2), (2, 5, 3, 2), fn=lambda x, y: x.repeat(2, 5, 1, 1) + y, free=10, barrier="is fixed"
    ),
    case("tile", (3, 2), fn=lambda x: x.tile(2), free=5),
    case("tile, met", (2, 3), (2, 12), fn=lambda x, y: x.tile((4,)) + y, free=9),
    case("repeat_interleave", (3, 2), fn=lambda x: x.repeat_interleave(2, 0), free=5),
    case("repeat_interleave, met", (2, 3), (2, 12), fn=lambda x, y: x.repeat_interleave(4, -1) + y, free=9),
    case("repeat_interleave of all", (2, 3), fn=lambda x: x.repeat_interleave(4), free=0, barrier="without a rule"),
    case("flip", (3, 4), fn=lambda x: x.flip(1), free=7),
    case("roll", (3, 7), fn=lambda x: x.roll(3, 1), free=10),
    case("roll back", (3, 7), fn=lambda x: x.roll((-2, 1), (1, 0)), free=10),
    case("pixel shuffle", (2, 8, 3, 3), fn=lambda x: F.pixel_shuffle(x, 2), free=10),
    case("pixel unshuffle", (2, 3, 4, 4), fn=lambda x: F.pixel_unshuffle(x, 2), free=9),
    case("channel shuffle", (2, 6, 3, 3), fn=lambda x: F.channel_shuffle(x, 2), free=13),
    case("kron", (4, 4), (2, 2), fn=torch.kron, free=0, barrier="without a rule"),
)
CASES = POINTWISE + CONTRACTION + ATTENTION + NORMS + REDUCTION + SHAPE


def tensors(model: Model) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.params.merged(model.buffers).items()}
