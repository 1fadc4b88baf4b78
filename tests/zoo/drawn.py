"""Small convolutional graphs drawn by hypothesis: a program is data, `Drawn` runs it as a module."""

from typing import Any

import attrs
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Place = tuple[int, int]  # channels, pixels on a side


@attrs.frozen
class Op:
    """One instruction: what, on which values (by number), with which numbers."""

    kind: str
    src: tuple[int, ...]
    args: tuple[int, ...] = ()


@attrs.frozen
class Program:
    """Instructions in order, then the values pooled into the classifier and the value returned beside it, if any."""

    ops: tuple[Op, ...]
    heads: tuple[tuple[int, bool], ...]
    extra: int | None = None

    def places(self) -> list[Place]:
        """Channels and size of every value: the input, then what each instruction appends."""
        places: list[Place] = [(4, 8)]
        for op in self.ops:
            places += results(op, places)
        return places


def results(op: Op, places: list[Place]) -> list[Place]:
    channels, size = places[op.src[0]]
    match op.kind:
        case "conv":
            return [(op.args[0], size // op.args[2])]
        case "depthwise":
            return [(channels * op.args[0], size)]
        case "cat":
            return [(sum(places[i][0] for i in op.src), size)]
        case "chunk":
            return [(channels // 2, size)] * 2
        case "split":
            return [(op.args[0], size), (channels - op.args[0], size)]
        case "max" | "avg":
            return [(channels, size // 2)]
        case _:
            return [(channels, size)]


def module_of(op: Op, places: list[Place], parts: nn.ModuleDict) -> nn.Module:
    channels = places[op.src[0]][0]
    if op.kind == "conv":
        cout, kernel, stride, groups, bias = op.args
        return nn.Conv2d(channels, cout, kernel, stride, kernel // 2, groups=groups, bias=bool(bias))
    if op.kind == "depthwise":
        return nn.Conv2d(channels, channels * op.args[0], 3, padding=1, groups=channels)
    if op.kind == "bn":
        return nn.BatchNorm2d(channels)
    if op.kind == "again":
        return parts[str(op.args[0])]
    return nn.Identity()


class Drawn(nn.Module):
    """A program as a module; integer weights make sums exact and ties common."""

    def __init__(self, program: Program, seed: int) -> None:
        super().__init__()
        self.program = program
        self.parts = nn.ModuleDict()
        places: list[Place] = [(4, 8)]
        for index, op in enumerate(program.ops):
            self.parts[str(index)] = module_of(op, places, self.parts)
            places += results(op, places)
        width = sum(places[i][0] * (places[i][1] ** 2 if flat else 1) for i, flat in program.heads)
        self.fc = nn.Linear(width, 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.randint(-2, 3, tensor.shape, generator=generator))
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                    module.running_var.copy_(4.0 ** torch.randint(0, 2, (module.num_features,), generator=generator))
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for index, op in enumerate(self.program.ops):
            values += self.step(op, self.parts[str(index)], [values[i] for i in op.src])
        pooled = [values[i].flatten(1) if flat else values[i].sum((2, 3)) for i, flat in self.program.heads]
        answer = self.fc(torch.cat(pooled, 1))
        return answer if self.program.extra is None else (answer, values[self.program.extra])

    def step(self, op: Op, part: nn.Module, given: list[Tensor]) -> list[Tensor]:
        first = given[0]
        match op.kind:
            case "relu":
                return [F.relu(first)]
            case "sigmoid":
                return [torch.sigmoid(first)]
            case "max":
                return [F.max_pool2d(first, 2)]
            case "avg":
                return [F.avg_pool2d(first, 2)]
            case "add":
                return [given[0] + given[1]]
            case "gate":
                return [given[0] * torch.sigmoid(given[1])]
            case "cat":
                return [torch.cat(given, 1)]
            case "chunk":
                return list(first.chunk(2, 1))
            case "split":
                return list(first.split([op.args[0], first.shape[1] - op.args[0]], 1))
            case "shuffle":
                batch, channels, height, width = first.shape
                halves = first.view(batch, 2, channels // 2, height, width)
                return [halves.transpose(1, 2).reshape(batch, -1, height, width)]
            case _:
                return [part(first)]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Up to ten instructions after a first convolution; every value that nobody reads goes to the classifier."""
    ops = [Op("conv", (0,), (draw(st.sampled_from((4, 6, 8))), 3, 1, 1, 1))]
    places: list[Place] = [(4, 8)]
    places += results(ops[0], places)
    for _ in range(draw(st.integers(4, 10))):
        kind = draw(st.sampled_from(KINDS))
        op = draw(instruction(kind, tuple(ops), tuple(places)))
        if op is not None:
            ops.append(op)
            places += results(op, places)
    read = {i for op in ops for i in op.src}
    loose = [i for i in range(1, len(places)) if i not in read]
    heads = tuple((i, draw(st.booleans())) for i in loose)
    extra = draw(st.none() | st.integers(1, len(places) - 1)) if draw(st.integers(0, 3)) == 0 else None
    return Program(tuple(ops), heads, extra)


KINDS = "conv conv depthwise add add cat chunk split bn relu sigmoid max avg shuffle again gate".split()


def instruction(kind: str, ops: tuple[Op, ...], places: tuple[Place, ...]) -> st.SearchStrategy[Op | None]:
    """An instruction of one kind that fits the values there are; None where there is none."""
    values = range(1, len(places))
    match kind:
        case "conv":
            choices = [i for i in values if places[i][1] >= 2]
            return st.sampled_from(choices).flatmap(lambda i: convolution(i, places[i]))
        case "depthwise":
            small = [Op(kind, (i,), (m,)) for i in values for m in (1, 2) if places[i][0] * m <= 12]
            return st.sampled_from(small)
        case "add" | "gate":
            pairs = [Op(kind, (i, j)) for i in values for j in values if i != j and places[i] == places[j]]
        case "cat":
            pairs = [
                Op(kind, (i, j))
                for i in values
                for j in values
                if places[i][1] == places[j][1] and places[i][0] + places[j][0] <= 12
            ]
        case "chunk" | "shuffle":
            pairs = [Op(kind, (i,)) for i in values if places[i][0] % 2 == 0]
        case "split":
            pairs = [Op(kind, (i,), (k,)) for i in values for k in (1, 3) if places[i][0] > k]
        case "max" | "avg":
            pairs = [Op(kind, (i,)) for i in values if places[i][1] >= 4]
        case "again":
            pairs = [
                Op(kind, (i,), (k,))
                for k, op in enumerate(ops)
                if op.kind == "conv" and op.args[0] == places[op.src[0]][0] and op.args[2] == 1
                for i in values
                if places[i][0] == op.args[0]
            ]
        case _:
            pairs = [Op(kind, (i,)) for i in values]
    return st.sampled_from(pairs) if pairs else st.none()


def convolution(source: int, place: Place) -> st.SearchStrategy[Op]:
    channels, size = place

    def grouped(cout: int) -> st.SearchStrategy[Op]:
        groups = [g for g in (1, 1, 2) if channels % g == 0 and cout % g == 0]
        strides = (1, 1, 2) if size >= 4 and size % 2 == 0 else (1,)
        numbers = st.tuples(
            st.just(cout), st.sampled_from((1, 3)), st.sampled_from(strides), st.sampled_from(groups), st.integers(0, 1)
        )
        return numbers.map(lambda args: Op("conv", (source,), args))

    return st.sampled_from((2, 4, 4, 6, 8)).flatmap(grouped)
