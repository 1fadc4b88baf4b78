"""A run that stops anywhere and is asked for again ends in the same bits, for every schedule there is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fprune
from fprune import (
    Pipeline,
    Schedule,
    TaskResult,
    agp,
    amc,
    annealing,
    dependency_aware,
    evaluate,
    evolve,
    finetune,
    globally,
    l1,
    level,
    linear,
    load,
    lottery,
    netadapt,
    one_shot,
    reset_weight,
    run_folder,
    scan,
    speed_up,
    unfold,
)
from fprune.compose.factory import Factory
from fprune.records import Goal, Report

X = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
CONFIG = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def train(module: nn.Module, state: dict[str, object] | None) -> tuple[dict[str, float], dict[str, object]]:
    """A few steps with momentum, noise, and moments that go on in the next round."""
    sgd = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    if state is not None:
        sgd.load_state_dict(state)
    loss = torch.zeros(())
    for _ in range(2):
        sgd.zero_grad()
        loss = F.cross_entropy(module(X + 0.1 * torch.randn_like(X)), Y)
        loss.backward()
        sgd.step()
    return {"loss": loss.item()}, sgd.state_dict()


def accuracy(module: nn.Module) -> float:
    out: Tensor = module(X)
    return -F.cross_entropy(out, Y).item()


def first(target: fprune.Config) -> int:
    return 1


def following(done: int, report: Report | None) -> tuple[Goal, int] | None:
    return None if done > 3 else (Goal(fprune.Config(CONFIG).scaled(done / 3), final=done == 3), done + 1)


SCHEDULES: dict[str, Schedule] = {
    "one_shot": one_shot(),
    "linear": linear(3),
    "agp": agp(3),
    "lottery": lottery(3),
    "scan": scan((0.2, 0.4)),
    "annealing": annealing(start=100, stop=30, cooling=0.5),
    "evolve": evolve(population=2, generations=2, parents=1),
    "netadapt": netadapt(2),
    "amc": amc(3, warmup=1),
    "unfold": unfold(first, following),
}
STAGES = {
    "compacted": l1(dependency_aware) | speed_up() | finetune(train, carries=True) | evaluate(accuracy),
    "masked": finetune(train, carries=True) | level(globally) | evaluate(accuracy) | reset_weight(),
}


def test_every_schedule_is_here() -> None:
    public = {n for n in dir(fprune) if isinstance(f := getattr(fprune, n), Factory) and f.lifts == "schedule"}
    assert public <= set(SCHEDULES)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_ends_in_the_same_bits(schedule: str, stages: str, tmp_path: Path) -> None:
    """Interrupted after every round, with another instance of the network each time."""
    pipeline = SCHEDULES[schedule] | STAGES[stages]
    whole = list(pipeline.stream(net(), CONFIG, example_inputs=(X,)))
    best = pipeline.run(net(), CONFIG, example_inputs=(X,))
    resumed = interrupted(pipeline, tmp_path / "a", len(whole))
    for one, other in zip(whole, resumed, strict=True):
        assert one == other, f"round {one.index} differs"
    assert load(tmp_path / "a", net(), example_inputs=(X,)) == whole[-1]
    assert pipeline.run(net(), CONFIG, example_inputs=(X,), store=tmp_path / "a") == best


def interrupted(pipeline: Pipeline, folder: Path, rounds: int) -> list[TaskResult]:
    """One round for each call, until there are no more."""
    found: list[TaskResult] = []
    while len(found) <= rounds:
        stream = iter(pipeline.stream(net(), CONFIG, example_inputs=(X,), store=run_folder(folder)))
        result = next(stream, None)
        del stream  # lets go of the folder
        if result is None:
            return found
        found.append(result)
    raise AssertionError("the run does not end")
