"""Schedules against the values of the papers in exact arithmetic, and searches in whole runs on a small network."""

import math
from decimal import Decimal, getcontext
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import nn

from fprune import (
    Config,
    Pipeline,
    Schedule,
    Stage,
    TaskResult,
    agp,
    amc,
    annealing,
    count,
    dependency_aware,
    evaluate,
    evolve,
    l1,
    level,
    linear,
    lottery,
    netadapt,
    speed_up,
)

getcontext().prec = 40


def amounts(schedule: Schedule, target: float) -> list[float]:
    return [goal.config.rules[0].amount for goal in schedule.goals(Config(target))]


TARGETS = (0.5, 0.8, 0.95)


@pytest.mark.parametrize(("s", "n"), [*product(TARGETS, (1, 2, 4, 5, 10, 37))])
def test_values_in_exact_arithmetic(s: float, n: int) -> None:
    exact = Fraction(s)
    cubic = [float(exact - exact * (1 - Fraction(t, n)) ** 3) for t in range(n + 1)]
    even = [float(exact * Fraction(t, n)) for t in range(n + 1)]
    kept = [1 - (Decimal(1) - Decimal(s)) ** (Decimal(t) / Decimal(n)) for t in range(1, n + 1)]
    assert amounts(agp(n), s) == pytest.approx(cubic, abs=1e-12)
    assert amounts(linear(n), s) == pytest.approx(even, abs=1e-12)
    assert amounts(lottery(n), s) == pytest.approx([float(value) for value in kept], abs=1e-12)


@pytest.mark.parametrize(("s", "n"), [*product(TARGETS, (3, 8))])
def test_what_the_formulas_mean(s: float, n: int) -> None:
    """The cubic's steps shrink to a single one of the size 1 / n^3, the ticket keeps the same share every round."""
    steps = torch.tensor(amounts(agp(n), s), dtype=torch.float64).diff()
    assert (steps.diff() < 0).all() and float(steps[-1]) == pytest.approx(s / n**3, abs=1e-12)
    left = 1 - torch.tensor([0.0, *amounts(lottery(n), s)], dtype=torch.float64)
    assert left[1:] / left[:-1] == pytest.approx((1 - s) ** (1 / n), abs=1e-12)


def test_the_published_sequences() -> None:
    assert amounts(agp(4), 0.8) == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8], abs=1e-12)
    assert amounts(lottery(4), 0.8) == pytest.approx([0.33126, 0.55279, 0.70093, 0.8], abs=5e-6)


class Net(nn.Module):
    """Convolutions, one of them behind a shortcut, and a linear layer; integer weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.conv3 = nn.Conv2d(12, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randint(-3, 4, value.shape, generator=draw))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        return self.fc(torch.relu(x + self.conv3(torch.relu(self.conv2(x)))).mean((2, 3)))


NET, IMAGES = Net(), torch.arange(72.0).reshape(2, 1, 6, 6).remainder(5) - 2
DENSE = NET(IMAGES).detach()


def near(module: nn.Module) -> float:
    """How near the output is to that of the whole network."""
    with torch.no_grad():
        return -float((module(IMAGES) - DENSE).abs().mean())


SEARCHES = [annealing(), evolve(population=4, generations=3), netadapt(4), amc(6, warmup=3)]
CONVOLUTIONS = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]


def streamed(pipeline: Pipeline, config: object) -> list[TaskResult]:
    return list(pipeline.stream(NET, config, example_inputs=(IMAGES,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "rounds"), [(agp(5), 6), (linear(5), 6), (lottery(5), 5), (annealing(), 17)], ids=repr
)
def test_how_many_rounds_there_are(schedule: Schedule, rounds: int) -> None:
    """Annealing with a score that rises, so that every move is kept, and with the network's own."""
    seen: list[int] = []
    rising = evaluate(lambda module: float(len(seen)) if seen.append(0) is None else 0.0)
    assert len(streamed(schedule | level() | rising, 0.4)) == rounds
    assert len(streamed(schedule | level() | evaluate(near), 0.4)) == rounds


@pytest.mark.parametrize("schedule", SEARCHES, ids=repr)
def test_single_weights_are_removed_to_the_last_one(schedule: Schedule) -> None:
    config = [{"total_sparsity": 0.7}]
    total = sum(layer.weight.numel() for layer in NET.children())
    results = streamed(schedule | level() | evaluate(near), config)
    for result in results:
        if result.goal.final:
            removed = sum(gone.removed for gone in result.report.elements.values())
            assert removed == math.floor(0.7 * total)
    assert sum(result.goal.final for result in results) >= 1


@pytest.mark.parametrize("schedule", SEARCHES, ids=repr)
@pytest.mark.parametrize("after", [Stage(), speed_up()], ids=["", "speed_up"])
def test_channels_are_removed_as_the_goal_says_and_coupled_layers_alike(schedule: Schedule, after: Stage) -> None:
    for result in streamed(schedule | l1(dependency_aware) | after | evaluate(near), CONVOLUTIONS):
        asked = {rule.op_names[0]: rule.amount for rule in result.goal.config.rules}
        assert asked["conv1"] == asked["conv3"]
        for name, share in asked.items():
            gone = result.report.channels[f"{name}.weight"]
            assert gone.removed == math.floor(share * gone.total + 1e-9)


@pytest.mark.parametrize("schedule", SEARCHES[:2], ids=repr)
def test_the_weighted_mean_of_a_search_over_channels_is_the_total(schedule: Schedule) -> None:
    """And whole units come as near to it as they can: no unit that still fits is left."""
    sizes = {"conv1": 72, "conv2": 864, "conv3": 864}
    for result in streamed(schedule | l1(dependency_aware) | evaluate(near), CONVOLUTIONS):
        asked = {rule.op_names[0]: rule.amount for rule in result.goal.config.rules}
        assert sum(asked[name] * n for name, n in sizes.items()) == pytest.approx(0.4 * 1800, abs=1e-6)
        gone = {name: result.report.channels[f"{name}.weight"].removed for name in sizes}
        left = 0.4 * 1800 - gone["conv1"] * (72 + 864) / 8 - gone["conv2"] * 864 / 12
        assert left >= -1e-6
        assert left < 72 or gone["conv2"] == 11, "a channel of conv2 is worth 72 weights"


@pytest.mark.parametrize("schedule", [netadapt(4, target="flops"), amc(6, target="flops", warmup=3)], ids=repr)
def test_operations_counted_on_the_smaller_model_meet_the_target(schedule: Schedule) -> None:
    config = [{"total_sparsity": 0.45}]
    dense = count(NET, (IMAGES,)).flops
    finals = [
        r for r in streamed(schedule | l1(dependency_aware) | speed_up() | evaluate(near), config) if r.goal.final
    ]
    assert finals
    for result in finals:
        assert count(result.module(), (IMAGES,)).flops <= 0.55 * dense


@pytest.mark.parametrize("schedule", SEARCHES, ids=repr)
def test_the_best_candidate_is_returned(schedule: Schedule) -> None:
    pipeline = schedule | level() | evaluate(near)
    results = streamed(pipeline, [{"total_sparsity": 0.7}])
    best = pipeline.run(NET, [{"total_sparsity": 0.7}])
    assert best.score == max(result.score or 0.0 for result in results if result.goal.final)
