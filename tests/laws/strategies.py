"""Hypothesis strategies: small networks with integer weights, and configs, schedules, stages and pipelines for them.

Weights are small integers stored in float64 and normalisation divides by powers of two, so every sum is exact:
equal means equal to the last bit, and ties are frequent.
"""

from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import fprune
from fprune import (
    Config,
    Goal,
    Masks,
    Pipeline,
    Report,
    Schedule,
    Stage,
    agp,
    amc,
    annealing,
    dependency_aware,
    evaluate,
    evolve,
    finetune,
    fpgm,
    globally,
    l1,
    l2,
    level,
    linear,
    lottery,
    nested,
    netadapt,
    one_shot,
    random,
    reset_weight,
    scan,
    speed_up,
    tap,
    unfold,
)
from fprune.layers import unit_mask
from fprune.scope import Scope


class Residual(nn.Module):
    """Two convolutions beside a shortcut; a strided convolution when the size changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, eps=1.0)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(out, eps=1.0)
        self.downsample = nn.Conv2d(channels, out, 1, stride) if stride > 1 or channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Mean(nn.Module):
    """The mean over the image; 16 or 4 pixels, so it stays exact."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@attrs.frozen(eq=False)
class Case:
    """A network, inputs for it, and the layers that may lose outputs: all but the last, those together that meet."""

    net: nn.Module
    inputs: tuple[Tensor, ...]
    families: tuple[tuple[str, ...], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(name for family in self.families for name in family)


def filled(net: nn.Module, seed: int) -> nn.Module:
    """The same network with integer weights, biases and means, and variances that make `1 / sqrt(var + 1)` exact."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randint(-3, 4, value.shape, generator=generator))
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.copy_(torch.randint(-2, 3, module.running_mean.shape, generator=generator))
                index = torch.randint(0, 3, module.running_var.shape, generator=generator)
                module.running_var.copy_(torch.tensor([0.0, 3.0, 15.0])[index])
    return net


def case(net: nn.Module, shape: tuple[int, ...], seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed + 1)
    inputs = torch.randint(-2, 3, (2, *shape), generator=generator).double()
    *names, _ = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    inner = [(name,) for name in names if name.endswith("conv1")]
    meeting = [[n for n in names if n == "0" or n.startswith("2.")], [n for n in names if n.startswith("3.")]]
    joined = [tuple(n for n in family if not n.endswith("conv1")) for family in meeting if family]
    families = [*joined, *inner] if inner else [(name,) for name in names]
    return Case(filled(net, seed), (inputs,), tuple(families))


seeds = st.integers(0, 2**16)
# Three channels and 65 % at most: a shared budget can always be met with one channel left in each layer.
widths = st.integers(3, 7)


@st.composite
def mlps(draw: st.DrawFn) -> Case:
    """Linear layers with ReLU, some with a BatchNorm1d between."""
    sizes = [draw(widths) for _ in range(draw(st.integers(1, 3)))]
    modules: list[nn.Module] = []
    last = 3
    for size in sizes:
        modules += [nn.Linear(last, size), *([nn.BatchNorm1d(size, eps=1.0)] if draw(st.booleans()) else []), nn.ReLU()]
        last = size
    return case(nn.Sequential(*modules, nn.Linear(last, 2)), (3,), draw(seeds))


@st.composite
def convnets(draw: st.DrawFn) -> Case:
    """Convolution, BatchNorm, ReLU, some with a pool; then flatten, or a mean, and a linear layer."""
    modules: list[nn.Module] = []
    last, pixels = 2, 4
    for _ in range(draw(st.integers(1, 3))):
        size = draw(widths)
        norm = [nn.BatchNorm2d(size, eps=1.0)] if draw(st.booleans()) else []
        modules += [nn.Conv2d(last, size, 3, padding=1, bias=draw(st.booleans())), *norm, nn.ReLU()]
        if pixels > 1 and draw(st.booleans()):
            modules.append(nn.MaxPool2d(2))
            pixels //= 2
        last = size
    head = [nn.Flatten(), nn.Linear(last * pixels**2, 2)] if draw(st.booleans()) else [Mean(), nn.Linear(last, 2)]
    return case(nn.Sequential(*modules, *head), (2, 4, 4), draw(seeds))


@st.composite
def residuals(draw: st.DrawFn) -> Case:
    """A stem, one or two residual blocks, the mean, and a linear layer."""
    width = draw(widths)
    blocks = [Residual(width, width, 1)]
    if draw(st.booleans()):
        out = draw(widths)
        blocks.append(Residual(width, out, 2))
        width = out
    stem = [nn.Conv2d(2, blocks[0].conv1.in_channels, 3, padding=1, bias=False), nn.ReLU()]
    return case(nn.Sequential(*stem, *blocks, Mean(), nn.Linear(width, 2)), (2, 4, 4), draw(seeds))


networks = st.one_of(mlps(), convnets(), residuals())
sparsities = st.sampled_from([0.25, 0.3, 0.5, 0.65])


@st.composite
def configs(draw: st.DrawFn, case: Case) -> list[dict[str, Any]]:
    """One sparsity for every layer but the last; sometimes a family of its own, sometimes one left out.

    Layers that meet in an addition share a rule, and one family keeps the first: no config is a mistake.
    """
    rules: list[dict[str, Any]] = [{"op_names": list(case.layers), "sparsity": draw(sparsities)}]
    others = draw(st.permutations(case.families[1:]))
    if others and draw(st.booleans()):
        rules.append({"op_names": list(others[0]), "sparsity": draw(sparsities)})
    if len(others) > 1 and draw(st.booleans()):
        rules.append({"op_names": list(others[1]), "exclude": True})
    return rules


class SignSGD(torch.optim.Optimizer):
    """Steps of one unit against the gradient's sign: training that keeps integers integers."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    value.sub_(value.grad.sign())


def example(module: nn.Module) -> Tensor:
    """Integer inputs that fit a generated network."""
    first = next(m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    shape = (4, first.in_features) if isinstance(first, nn.Linear) else (4, first.in_channels, 4, 4)
    return torch.arange(torch.Size(shape).numel()).remainder(5).sub(2).double().reshape(shape)


def step(module: nn.Module) -> None:
    """Two exact steps of training, with the statistics of the norms left alone."""
    module.eval()
    optimizer = SignSGD(module.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        module(example(module)).sum().backward()
        optimizer.step()


def shuffle(module: nn.Module) -> dict[str, float]:
    """Training that draws from the global random generator, as any real training does, and reports what it drew."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for value in module.parameters():
        value.grad = torch.randint(-1, 2, value.shape).to(value.dtype)
    optimizer.step()
    return {"drawn": float(torch.rand(()))}


def score(module: nn.Module) -> float:
    """A score that depends on what the module computes."""
    return -float(module(example(module)).abs().mean())


def look(result: fprune.TaskResult) -> None:
    """Looks at a result and says nothing."""


@fprune.pruner
def fickle(params: Scope, config: Config) -> Masks:
    """Masks the first or second channel of each layer, as the sparsity has it, and forgets what it masked before."""
    rows = params.plan(config).selected
    chosen = {row.layer: torch.arange(row.layer.units) != int(100 * (row.sparsity or 0)) % 2 for row in rows}
    return Masks({layer.weight: unit_mask(keep, layer) for layer, keep in chosen.items()})


def halves(target: Config) -> tuple[Goal, ...]:
    """The state of an explicit schedule: the goals that are left."""
    return Goal(target.scaled(0.5)), Goal(target, final=True)


def following(left: tuple[Goal, ...], report: Report | None) -> tuple[Goal, tuple[Goal, ...]] | None:
    """The first of the goals that are left, and the others."""
    return (left[0], left[1:]) if left else None


rounds = st.integers(1, 3)
schedules: st.SearchStrategy[Schedule] = st.one_of(
    st.just(one_shot()),
    st.builds(linear, rounds),
    st.builds(agp, rounds),
    st.builds(lottery, rounds),
    st.sampled_from([unfold(halves, following), linear(1).then(one_shot())]),
)

element_pruners: st.SearchStrategy[Stage] = st.sampled_from([level(), level(globally), random()])
layer_pruners: st.SearchStrategy[Stage] = st.sampled_from(
    [l1(), l2(), l1(globally), fpgm(), random(granularity="channel"), fickle(), nested(linear(1) | l1())]
)
coupled_pruners: st.SearchStrategy[Stage] = st.sampled_from(
    [l1(dependency_aware), l2(dependency_aware), fpgm(dependency_aware)]
)
pruners = st.one_of(element_pruners, layer_pruners, coupled_pruners)
fillers: st.SearchStrategy[Stage] = st.sampled_from(
    [finetune(step), finetune(shuffle), evaluate(score), reset_weight(), tap(look)]
)
words = st.one_of(pruners, fillers, st.just(speed_up()), st.just(Stage()))


def joined(stages: list[Stage]) -> Stage:
    word = Stage()
    for stage in stages:
        word = word | stage
    return word


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """A legal order of stages: at least one pruner; a speed-up only where masks of whole units come before it."""
    before = draw(st.lists(fillers, max_size=2))
    after = draw(st.lists(fillers, max_size=2))
    if draw(st.booleans()):
        return joined([*before, draw(coupled_pruners), *after, *draw(st.sampled_from([[], [speed_up()]]))])
    return joined([*before, draw(pruners), *after])


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    return draw(schedules) | draw(stages())


searches: st.SearchStrategy[Schedule] = st.sampled_from(
    [
        annealing(stop=60),
        annealing(stop=80, magnitude=0.1).then(one_shot()),
        evolve(population=3, generations=2, parents=2),
        netadapt(2),
        amc(4, warmup=2),
        scan((0.25, 0.5)),
    ]
)


@st.composite
def search_pipelines(draw: st.DrawFn) -> Pipeline:
    """A schedule that reads scores, a pruner, a score; sometimes a smaller model in between."""
    smaller = draw(st.sampled_from([Stage(), speed_up()]))
    pruner = draw(st.one_of(st.sampled_from([level(), l1()]), coupled_pruners.map(lambda word: word | smaller)))
    return draw(searches) | pruner | evaluate(score)


# What `eval(repr(pipeline))` may use.
NAMES = {**{name: getattr(fprune, name) for name in dir(fprune) if not name.startswith("_")}, **globals()}
