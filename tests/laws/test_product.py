"""Everything with everything: pruner, allocation, schedule, with and without a speed-up, gives what was asked."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fprune as fp
from fprune.allocate import Allocation
from fprune.compose import Schedule, Stage
from fprune.records import TaskResult

IMAGES = torch.arange(8 * 64.0).reshape(8, 1, 8, 8).remainder(11) / 5 - 1
LABELS = torch.arange(8).remainder(3)
BATCHES = [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])]
CONFIG = [{"op_types": ["Conv2d"], "sparsity": 0.5}]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def forward(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def score(module: nn.Module) -> float:
    return -float(F.cross_entropy(module(IMAGES), LABELS))


Make = Callable[[Allocation], Stage]

PRUNERS: dict[str, tuple[Make, str]] = {
    "level": (fp.level, "element"),
    "l1": (fp.l1, "channel"),
    "l2": (fp.l2, "channel"),
    "fpgm": (fp.fpgm, "channel"),
    "random": (fp.random, "element"),
    "random, channels": (lambda a: fp.random(a, granularity="channel"), "channel"),
    "taylor": (lambda a: fp.taylor(loss, BATCHES, a), "channel"),
    "taylor, gates": (lambda a: fp.taylor(loss, BATCHES, a, form="gate"), "channel"),
    "snip": (lambda a: fp.snip(loss, BATCHES, a), "element"),
    "grasp": (lambda a: fp.grasp(loss, BATCHES, a), "element"),
    "synflow": (lambda a: fp.synflow(a, rounds=3), "element"),
    "fisher": (lambda a: fp.fisher(loss, BATCHES, a), "element"),
    "hessian": (lambda a: fp.hessian(loss, BATCHES, a), "element"),
    "apoz": (lambda a: fp.apoz(forward, BATCHES, a), "channel"),
    "mean_activation": (lambda a: fp.mean_activation(forward, BATCHES, a), "channel"),
    "slim": (lambda a: fp.slim(loss, BATCHES, a), "channel"),
}
TRAINED: dict[str, tuple[Make, str]] = {
    "admm": (lambda a: fp.admm(loss, BATCHES, a, iterations=2), "element"),
    "movement": (lambda a: fp.movement(loss, BATCHES, a), "element"),
}
ALLOCATIONS: dict[str, Any] = {
    "per_layer": fp.per_layer,
    "globally": fp.globally,
    "dependency_aware": fp.dependency_aware,
}
SCHEDULES: dict[str, Schedule] = {
    "agp": fp.agp(2),
    "linear": fp.linear(2),
    "lottery": fp.lottery(2),
    "annealing": fp.annealing(start=100, stop=60, cooling=0.7),
}


def check(result: TaskResult, grain: str, *, shared: bool) -> None:
    """The goal's sparsity, exactly: of each layer, or of the layers of a rule together."""
    realised = result.report.channels if grain == "channel" else result.report.elements
    rows = result.goal.config.resolve(result.origin).selected
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.rule if shared else row.layer.weight, []).append(row)
    assert rows
    for group in groups.values():
        found = [realised[row.layer.weight] for row in group]
        total, amount = sum(part.total for part in found), group[0].sparsity
        removed, wanted = sum(part.removed for part in found), math.floor(amount * total + 1e-9)
        # A filter that lost all its single weights is cut out, and the weights that read it go with it.
        cut = grain == "element" and any(part.removed for part in result.report.channels.values())
        assert removed == wanted or (cut and removed > wanted), (group, found)


def run(pruner: tuple[Make, str], allocation: str, schedule: Schedule, *, fast: bool) -> None:
    make, grain = pruner
    structural = allocation == "dependency_aware"
    stage = make(ALLOCATIONS[allocation]) | fp.evaluate(score)
    stage = stage | fp.speed_up() if fast else stage
    results = list((schedule | stage).stream(network(), CONFIG, example_inputs=(IMAGES[:2],), seed=1))
    assert len(results) == (2 if schedule == SCHEDULES["lottery"] else 3)
    for result in results:
        check(result, "channel" if structural else grain, shared=allocation == "globally")
    if fast and structural:
        sizes = results[-1].model
        assert sizes["0.weight"].shape[0] + sizes["3.weight"].shape[0] == 7, "half of 6 and of 8, or as annealed"


@pytest.mark.parametrize("fast", [False, True], ids=["masks", "speed_up"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_allocation_and_schedule(pruner: str, allocation: str, schedule: str, fast: bool) -> None:
    run(PRUNERS[pruner], allocation, SCHEDULES[schedule], fast=fast)


@pytest.mark.parametrize(
    ("pruner", "allocation", "schedule"),
    [*product(TRAINED, ALLOCATIONS, ["agp"]), *product(TRAINED, ["globally"], ["lottery", "annealing"])],
)
def test_pruners_that_train(pruner: str, allocation: str, schedule: str) -> None:
    run(TRAINED[pruner], allocation, SCHEDULES[schedule], fast=allocation == "dependency_aware")


@pytest.mark.parametrize("pruner", ["level", "l1"])
def test_amc(pruner: str) -> None:
    make, _ = PRUNERS[pruner]
    pipeline = fp.amc(3, target="params") | make(fp.dependency_aware) | fp.evaluate(score) | fp.speed_up()
    for result in pipeline.stream(network(), CONFIG, example_inputs=(IMAGES[:2],), seed=1):
        check(result, "channel", shared=False)
