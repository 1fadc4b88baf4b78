"""Small token models drawn by hypothesis: attention, norms, residuals, concatenation, shared and tied layers."""

from typing import Any

import attrs
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.zoo.drawn import Op

TOKENS, WIDTH, VOCABULARY = 5, 4, 11
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "sigmoid": torch.sigmoid, "softplus": F.softplus, "silu": F.silu}


@attrs.frozen
class Program:
    """Instructions in order; whether the first value is embedded, and which value is returned beside the answer."""

    ops: tuple[Op, ...]
    ids: bool
    extra: int | None = None

    def widths(self) -> list[int]:
        """The width of every value: the input, then what each instruction appends."""
        widths = [WIDTH]
        for op in self.ops:
            widths += results(op, widths, self.ops)
        return widths

    def loose(self) -> list[int]:
        """Values that no instruction reads."""
        read = {i for op in self.ops for i in op.src}
        return [i for i in range(len(self.widths())) if i not in read]


def results(op: Op, widths: list[int], ops: tuple[Op, ...]) -> list[int]:
    width = widths[op.src[0]]
    match op.kind:
        case "linear" | "conv1d":
            return [op.args[0]]
        case "tied":
            return [widths[ops[op.args[0]].src[0]]]
        case "again":
            return [ops[op.args[0]].args[0]]
        case "cat":
            return [sum(widths[i] for i in op.src)]
        case "chunk":
            return [width // 2] * 2
        case "split":
            return [op.args[0], width - op.args[0]]
        case "glu":
            return [width // 2]
        case _:
            return [width]


class Attention(nn.Module):
    """Self- or cross-attention with grouped keys and values, by `scaled_dot_product_attention` or by hand."""

    def __init__(self, width: int, other: int, heads: int, groups: int, by_hand: bool, fused: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.by_hand, self.fused = heads, groups, width // heads, by_hand, fused
        rows = groups * self.size
        self.q = nn.Linear(width, (3 if fused else 1) * width)
        if not fused:
            self.k, self.v = nn.Linear(other, rows, bias=False), nn.Linear(other, rows)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.fused:
            q, k, v = (self.split(part, self.heads) for part in self.q(x).chunk(3, -1))
        else:
            q, k, v = (
                self.split(self.q(x), self.heads),
                self.split(self.k(y), self.groups),
                self.split(self.v(y), self.groups),
            )
            repeats = self.heads // self.groups
            if repeats > 1:
                k, v = (t.repeat_interleave(repeats, 1) for t in (k, v))
        if self.by_hand:
            mixed = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.heads * self.size))


def module_of(op: Op, widths: list[int], parts: nn.ModuleDict) -> nn.Module:
    width = widths[op.src[0]]
    match op.kind:
        case "linear":
            return nn.Linear(width, op.args[0], bias=bool(op.args[1]))
        case "conv1d":
            return nn.Conv1d(width, op.args[0], 3, padding=1, groups=op.args[1])
        case "layer_norm":
            return nn.LayerNorm(width, eps=1e-2, elementwise_affine=bool(op.args[0]))
        case "rms_norm":
            return nn.RMSNorm(width, eps=1e-2)
        case "tokens":
            return nn.Linear(TOKENS, TOKENS)
        case "scale":
            return Scale(width)
        case "attention":
            return Attention(width, widths[op.src[-1]], *op.args)
        case "again":
            return parts[str(op.args[0])]
        case _:
            return nn.Identity()


class Scale(nn.Module):
    """A factor and a shift of each channel, as plain parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


class DrawnTokens(nn.Module):
    """A program as a module."""

    def __init__(self, program: Program, seed: int) -> None:
        super().__init__()
        self.program = program
        self.start = nn.Embedding(VOCABULARY, WIDTH) if program.ids else nn.Linear(3, WIDTH)
        self.parts = nn.ModuleDict()
        widths = [WIDTH]
        for index, op in enumerate(program.ops):
            self.parts[str(index)] = module_of(op, widths, self.parts)
            widths += results(op, widths, program.ops)
        self.fc = nn.Linear(sum(widths[i] for i in program.loose()), 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for param in self.parameters():
                scale = param.shape[-1] ** -0.5 if param.dim() > 1 and param.shape[0] > 1 else 0.7
                param.copy_(scale * torch.randn(param.shape, generator=generator))
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        values = [self.start(x)]
        for index, op in enumerate(self.program.ops):
            values += self.step(op, self.parts[str(index)], [values[i] for i in op.src])
        answer = self.fc(torch.cat([values[i].mean(1) for i in self.program.loose()], 1))
        return answer if self.program.extra is None else (answer, values[self.program.extra])

    def step(self, op: Op, part: nn.Module, given: list[Tensor]) -> list[Tensor]:
        first = given[0]
        match op.kind:
            case "add":
                return [given[0] + given[1]]
            case "gate":
                return [given[0] * torch.sigmoid(given[1])]
            case "cat":
                return [torch.cat(given, -1)]
            case "chunk":
                return list(first.chunk(2, -1))
            case "split":
                return list(first.split([op.args[0], first.shape[-1] - op.args[0]], -1))
            case "glu":
                return [F.glu(first, -1)]
            case "tied":
                return [first @ self.parts[str(op.args[0])].weight]
            case "tokens":
                return [part(first.transpose(1, 2)).transpose(1, 2)]
            case "conv1d":
                return [part(first.transpose(1, 2)).transpose(1, 2)]
            case "shuffle":
                grid = first.view(first.shape[0], TOKENS, 2, first.shape[-1] // 2)
                return [grid.transpose(2, 3).reshape(first.shape[0], TOKENS, -1)]
            case "centre":
                return [first - first.mean(-1, keepdim=True)]
            case "attention":
                return [part(first, given[-1])]
            case kind if kind in ACTIVATIONS:
                return [ACTIVATIONS[kind](first)]
            case _:
                return [part(first)]


KINDS = (
    "linear linear linear layer_norm rms_norm add add gate cat chunk split glu attention attention tied again "
    "tokens conv1d scale shuffle centre relu gelu sigmoid softplus"
).split()


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Up to eight instructions; every value that nobody reads goes to the classifier."""
    ops: list[Op] = []
    widths = [WIDTH]
    for _ in range(draw(st.integers(3, 8))):
        op = draw(instruction(draw(st.sampled_from(KINDS)), tuple(ops), tuple(widths)))
        if op is not None:
            ops.append(op)
            widths += results(op, widths, tuple(ops))
    extra = draw(st.integers(0, len(widths) - 1)) if draw(st.integers(0, 3)) == 0 else None
    return Program(tuple(ops), draw(st.booleans()), extra)


def instruction(kind: str, ops: tuple[Op, ...], widths: tuple[int, ...]) -> st.SearchStrategy[Op | None]:
    """An instruction of one kind that fits the values there are; None where there is none."""
    values = range(len(widths))
    even = [i for i in values if widths[i] % 2 == 0 and widths[i] >= 4]
    linears = [k for k, op in enumerate(ops) if op.kind == "linear"]
    found: list[Op] = []
    match kind:
        case "linear":
            found = [Op(kind, (i,), (w, b)) for i in values for w in (4, 6, 8) for b in (0, 1)]
        case "conv1d":
            found = [Op(kind, (i,), (w, g)) for i in even for w in (4, 6) for g in (1, 2)]
        case "add" | "gate":
            found = [Op(kind, (i, j)) for i in values for j in values if i != j and widths[i] == widths[j]]
        case "cat":
            found = [Op(kind, (i, j)) for i in values for j in values if widths[i] + widths[j] <= 12]
        case "chunk" | "shuffle" | "glu":
            found = [Op(kind, (i,)) for i in even]
        case "split":
            found = [Op(kind, (i,), (k,)) for i in values for k in (1, 3) if widths[i] > k]
        case "layer_norm":
            found = [Op(kind, (i,), (affine,)) for i in values for affine in (0, 1)]
        case "attention":
            shapes = [(1, 1), (2, 2), (2, 1)]
            crossed = [
                Op(kind, (i, j), (*heads, hand, False))
                for i in even
                for j in values
                for heads in shapes
                for hand in (False, True)
            ]
            fused = [Op(kind, (i, i), (2, 2, hand, True)) for i in even for hand in (False, True)]
            found = crossed + fused
        case "tied":
            found = [Op(kind, (i,), (k,)) for k in linears for i in values if ops[k].args[0] == widths[i]]
        case "again":
            found = [Op(kind, (i,), (k,)) for k in linears for i in values if widths[ops[k].src[0]] == widths[i]]
        case _:
            found = [Op(kind, (i,)) for i in values]
    return st.sampled_from(found) if found else st.none()
