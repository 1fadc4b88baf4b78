"""Every public pruner and allocation, what the laws have to know of each, and the small networks they are tried on.

A new pruner or allocation joins by a line in `PRUNERS` or `ALLOCATIONS`. A pruner that looks at data is given `loss` or
`forward` and `BATCHES`, and says `needs_model=True`:

    Pruner("taylor", lambda allocation: taylor(loss, BATCHES, allocation), "channel", needs_model=True, off=SLOPES)

A law that makes no sense for it is declared off, by its name in `LAWS`, with the reason.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import attrs
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune.allocate import (
    Allocation,
    balanced,
    block,
    dependency_aware,
    erk,
    globally,
    isomorphic,
    lamp,
    n_m,
    owl,
    per_layer,
    uniform_plus,
)
from fprune.compose import Stage
from fprune.config import ConfigLike
from fprune.criteria import Criterion, channel_norm, geometric_distance, magnitude
from fprune.inputs import inputs
from fprune.layers import Layer, unit_view
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import (
    admm,
    apoz,
    fisher,
    fpgm,
    grasp,
    hessian,
    l1,
    l2,
    level,
    mean_activation,
    movement,
    random,
    slim,
    snip,
    synflow,
    taylor,
)
from fprune.structure import Structure, trace

LAWS = {
    "counts": "exactly as many go as the sparsity says",
    "ties": "equal scores go by index",
    "shrinks": "a higher sparsity removes a superset",
    "rounds": "in rounds, each from the last one's masks, the same counts are reached and masks only shrink",
    "again": "the same sparsity once more changes nothing",
    "order": "the order of the mapping makes no difference",
    "names": "renamed parameters have renamed masks",
    "scale": "all weights times a power of two: the same masks",
    "signs": "all weights negated: the same masks",
    "scores": "nothing kept scores lower than something removed",
    "outputs": "permuted output units have permuted masks",
    "inputs": "permuted input channels leave channels, and permute elements",
}
"""Laws that can be declared off; those without a name here hold for everything."""


@attrs.frozen(eq=False)
class Net:
    """A network of a pruner's laws: its model, its structure, and the weights that may lose outputs."""

    model: Model
    structure: Structure
    hidden: tuple[str, ...]

    @staticmethod
    def of(module: nn.Module, x: Tensor, hidden: tuple[str, ...]) -> "Net":
        model = Model.from_module(module)
        return Net(model, trace(model, inputs(x)), hidden)


@attrs.frozen
class Pruner:
    """A public pruner: how to make the stage, what it scores, and the criterion; None when it has none to ask.

    `needs_model`: it wants a callable `Model`, so laws of plain mappings are not tried, and with all allocations only
    the counts are; `slow`: not even those; `signed`: its scores can be negative, which `lamp` refuses; `net`: the
    network it is tried on; `off`: laws that do not hold for it, and why.
    """

    name: str
    make: Callable[[Allocation], Stage]
    grain: str
    criterion: Criterion | None = None
    needs_model: bool = False
    slow: bool = False
    signed: bool = False
    net: str = "plain"
    off: Mapping[str, str] = {}


@attrs.frozen
class Spread:
    """A public allocation: the value, the size of the block it counts in, the most it can remove.

    `few`: how much it can remove of the first and the last layer alone; `shared`: layers compete by score; `total`: the
    count is exact over all layers together; `removes`: how many of a layer go, where that is not `floor(s * size)` of
    each block; `runs`: which weights are neighbours matters; `structural`: it needs a traced model; `grain`: what it
    removes whatever the criterion scores; `off`: laws that do not hold for it, and why.
    """

    name: str
    value: Allocation
    block: Callable[[Layer, str], int]
    most: float = 0.9
    few: float = 0.5
    shared: bool = False
    total: bool = False
    removes: Callable[[Layer, float], int] | None = None
    runs: bool = False
    structural: bool = False
    grain: str | None = None
    off: Mapping[str, str] = {}


def whole(layer: Layer, grain: str) -> int:
    return layer.units if grain == "channel" else math.prod(layer.shape)


def row(layer: Layer, grain: str) -> int:
    return layer.units if grain == "channel" else math.prod(layer.shape[1:])


def four(layer: Layer, grain: str) -> int:
    return 4


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Small integer images with a target for each of the four outputs."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(-2, 3, (3, 4, 8, 8), generator=generator).float(),
            torch.randint(-1, 2, (3, 4), generator=generator).float(),
        )
        for _ in range(count)
    ]


BATCHES = batches()


def loss(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss with a curvature, finite for every drawn model."""
    x, target = batch
    return (model(x) - target).square().mean()


def blocks(layer: Layer, sparsity: float) -> int:
    return 8 * count(sparsity, layer.shape[0] * layer.shape[1] // 8) * math.prod(layer.shape[2:])


PLACES = dict.fromkeys(("order", "names", "ties"), "which layer is the first is a matter of order")
CHANCE = dict.fromkeys(("scores", "outputs", "inputs", "names"), "it is chance")
SLOPES = dict.fromkeys(
    ("scale", "signs"), "gradients depend on the scale, the sign and the neighbours of a weight"
) | dict.fromkeys(("outputs", "inputs"), "another network")
BIASED = {"scale": "biases do not scale like products of weights", "signs": "a rectifier tells signs apart"}

TRAINS = SLOPES | {"shrinks": "it trains towards another sparsity"}


def descent(params: list[Tensor]) -> torch.optim.Optimizer:
    """Steps so small that no drawn model diverges."""
    return torch.optim.SGD(params, lr=2.0**-60)


PRUNERS = [
    Pruner("level", level, "element", magnitude()),
    Pruner("l1", l1, "channel", channel_norm(p=1)),
    Pruner("l2", l2, "channel", channel_norm(p=2)),
    Pruner("fpgm", fpgm, "channel", geometric_distance()),
    Pruner("random", random, "element", off=CHANCE),
    Pruner("random, channels", lambda allocation: random(allocation, granularity="channel"), "channel", off=CHANCE),
    Pruner("taylor", lambda allocation: taylor(loss, BATCHES, allocation), "channel", needs_model=True, off=SLOPES),
    Pruner("taylor, gates", lambda a: taylor(loss, BATCHES, a, form="gate"), "channel", needs_model=True, off=SLOPES),
    Pruner("snip", lambda allocation: snip(loss, BATCHES, allocation), "element", needs_model=True, off=SLOPES),
    Pruner("fisher", lambda allocation: fisher(loss, BATCHES, allocation), "element", needs_model=True, off=SLOPES),
    Pruner(
        "grasp",
        lambda allocation: grasp(loss, BATCHES, allocation),
        "element",
        needs_model=True,
        signed=True,
        slow=True,
        off=SLOPES,
    ),
    Pruner(
        "hessian",
        lambda allocation: hessian(loss, BATCHES, allocation, probes=1),
        "element",
        needs_model=True,
        signed=True,
        slow=True,
        off=SLOPES,
    ),
    Pruner(
        "synflow",
        lambda allocation: synflow(allocation, rounds=2),
        "element",
        needs_model=True,
        slow=True,
        off=SLOPES | {"shrinks": "another target, other steps on the way"},
    ),
    Pruner(
        "slim",
        lambda allocation: slim(loss, BATCHES, allocation, factors="learned", optimizer=descent),
        "channel",
        needs_model=True,
        slow=True,
        off=SLOPES,
    ),
    Pruner(
        "admm",
        lambda allocation: admm(loss, BATCHES, allocation, iterations=1, optimizer=descent),
        "element",
        needs_model=True,
        slow=True,
        off=TRAINS,
    ),
    Pruner(
        "movement",
        lambda allocation: movement(loss, BATCHES, allocation, epochs=1, warm_up=0, optimizer=descent),
        "element",
        needs_model=True,
        slow=True,
        off=TRAINS | dict.fromkeys(("rounds", "again"), "it regrows"),
    ),
    Pruner("apoz", lambda a: apoz(forward, BATCHES, a, activation="relu"), "channel", needs_model=True, off=BIASED),
    Pruner(
        "mean_activation",
        lambda a: mean_activation(forward, BATCHES, a, activation="relu"),
        "channel",
        needs_model=True,
        off=BIASED,
    ),
]
ALLOCATIONS = [
    Spread("per_layer", per_layer, whole),
    Spread("globally", globally, whole, shared=True, total=True),
    Spread("balanced", balanced(), row),
    Spread("balanced, runs", balanced(4), four, most=0.75, runs=True),
    Spread("n_m", n_m(2, 4), four, most=0.5, runs=True),
    Spread("dependency_aware", dependency_aware, whole, structural=True, grain="channel"),
    Spread("block", block(4, 2), whole, removes=blocks, runs=True, grain="element"),
    Spread("erk", erk, whole, total=True),
    Spread("lamp", lamp, whole, total=True),
    Spread("owl", owl(m=1.5, lam=0.1), whole, total=True),
    Spread("uniform_plus", uniform_plus, whole, most=0.5, few=0.1, total=True, off=PLACES),
    Spread("isomorphic", isomorphic, whole, structural=True, grain="channel"),
]
BASIC = ("per_layer", "globally", "dependency_aware")
SPARSITIES = [0.0, 0.1, 0.25, 0.29, 0.5, 0.75, 0.9]
several = settings(max_examples=max(2, settings.default.max_examples // 8))


def pairs(law: str = "", wanted: Callable[[Pruner, Spread], bool] = lambda p, a: True) -> pytest.MarkDecorator:
    """Every pruner with every allocation that the law is for."""
    listed = [
        (p, a)
        for p, a in product(PRUNERS, ALLOCATIONS)
        if law not in p.off and law not in a.off and wanted(p, a) and not (a.name == "lamp" and p.signed)
        if a.name in BASIC or not (p.slow or (p.needs_model and law != "counts"))
    ]
    named = [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}") for pair in listed]
    return pytest.mark.parametrize(("pruner", "allocation"), named)


def plain(pruner: Pruner, allocation: Spread) -> bool:
    """Whether a mapping of tensors is enough for the two."""
    return not (pruner.needs_model or allocation.structural)


def scored(pruner: Pruner, allocation: Spread) -> bool:
    return plain(pruner, allocation) and pruner.criterion is not None


PLAIN = OrderedDict(
    a=nn.Conv2d(4, 8, 3, padding=1),
    b=nn.ReLU(),
    c=nn.Conv2d(8, 12, 3, padding=1),
    d=nn.ReLU(),
    e=nn.AdaptiveAvgPool2d(1),
    f=nn.Flatten(),
    g=nn.Linear(12, 4),
)
NORMED = OrderedDict([*list(PLAIN.items())[:1], ("n", nn.BatchNorm2d(8)), *list(PLAIN.items())[1:]])
# the outputs of the last layer are the model's, so structural allocations keep them
NETS = {
    "plain": Net.of(nn.Sequential(PLAIN), torch.ones(1, 4, 8, 8), ("a.weight", "c.weight")),
    "normed": Net.of(nn.Sequential(NORMED), torch.ones(1, 4, 8, 8), ("a.weight", "c.weight", "n.weight")),
}


def integers(net: Net, seed: int, spread: int) -> Model:
    """The network with integer weights; all ones when the spread is 0."""
    generator = torch.Generator().manual_seed(seed)
    return net.model.replace(
        params={
            name: torch.randint(-spread, spread + 1, value.shape, generator=generator).float() + (spread == 0)
            for name, value in net.model.items()
        }
    )


draws = st.tuples(st.integers(0, 10**6), st.sampled_from([0, 1, 3, 50]))
"""A seed and a spread, from which `drawn` makes the model."""


def drawn(pruner: Pruner, draw: tuple[int, int]) -> Model:
    return integers(NETS[pruner.net], *draw)


def forward(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def distinct(seed: int) -> dict[str, Tensor]:
    """Weights without ties, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in NETS["plain"].model.items()}


def found(
    pruner: Pruner, allocation: Spread, params: Mapping[str, Tensor], config: ConfigLike, **options: object
) -> Masks:
    """What the pruner removes of the layers it is for."""
    traced = NETS[pruner.net].structure
    structure = traced if allocation.structural else None
    example = traced.inputs if pruner.needs_model else None
    stage = pruner.make(allocation.value)
    return stage.masks(params, config, structure=structure, example_inputs=example, **options)


def reachable(allocation: Spread) -> Iterator[float]:
    return (sparsity for sparsity in SPARSITIES if sparsity <= allocation.most)


def grain_of(pruner: Pruner, allocation: Spread) -> str:
    return allocation.grain or pruner.grain


def prunable(model: Model) -> list[Layer]:
    """The layers that a bare sparsity means."""
    return [layer for layer in model.layers if layer.default]


def removed(masks: Masks, layer: Layer, grain: str) -> int:
    """How many of a layer's elements or units are masked entirely."""
    mask = (
        masks[layer.weight].expand(layer.shape) if layer.weight in masks else torch.ones(layer.shape, dtype=torch.bool)
    )
    return int((~mask).sum()) if grain == "element" else int((~unit_view(mask, layer).any(dim=1)).sum())


def count(sparsity: float, total: int) -> int:
    return math.floor(sparsity * total + 1e-9)


def expected(pruner: Pruner, allocation: Spread, layer: Layer, sparsity: float) -> int:
    """How many of a layer go, where the layer's count is fixed."""
    grain = grain_of(pruner, allocation)
    if allocation.structural and layer.weight not in NETS[pruner.net].hidden:
        return 0
    if allocation.removes is not None:
        return allocation.removes(layer, sparsity)
    size = allocation.block(layer, grain)
    return whole(layer, grain) // size * count(sparsity, size)
