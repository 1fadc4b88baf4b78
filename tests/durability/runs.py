"""Real runs, small enough to be killed hundreds of times: what they are, and what they come to without any trouble."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import nn

from fprune import (
    agp,
    annealing,
    dependency_aware,
    evaluate,
    finetune,
    l1,
    level,
    load,
    lottery,
    reset_weight,
    run_folder,
    speed_up,
)
from fprune.records import TaskResult
from fprune.tree import digest

IMAGES = torch.linspace(-1, 1, 4 * 2 * 6 * 6).reshape(4, 2, 6, 6)
ROWS = torch.linspace(-1, 1, 8 * 6).reshape(8, 6)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 3)
    )


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))


def stepped(module: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    total = 0.0
    for _ in range(3):
        noise = torch.randn_like(x) * 0.1  # the run seeds the global generator for each round
        loss = (module(x + noise) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total


def with_momentum(module: nn.Module, state: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    loss = stepped(module.train(), IMAGES, optimizer)
    return {"loss": loss}, {"optimizer": optimizer.state_dict(), "calls": 1 + (state or {"calls": 0})["calls"]}


def with_adam(module: nn.Module) -> dict[str, float]:
    return {"loss": stepped(module, ROWS, torch.optim.Adam(module.parameters()))}


def on_images(module: nn.Module) -> float:
    return -float((module(IMAGES) - 1).square().mean())


def on_rows(module: nn.Module) -> float:
    return -float((module(ROWS) - 1).square().mean())


@frozen
class Run:
    """A pipeline on a network; `stream` goes on where the folder stopped."""

    pipeline: Any
    net: Callable[[], nn.Module]
    config: Any
    example_inputs: Any = None

    def stream(self, folder: Path | None, keep: Any = "last") -> Iterator[TaskResult]:
        store = None if folder is None else run_folder(folder, keep=keep)
        return iter(self.pipeline.stream(self.net(), self.config, example_inputs=self.example_inputs, store=store))

    def load(self, folder: Path, round: Any = "newest") -> TaskResult:
        return load(folder, self.net(), round=round, example_inputs=self.example_inputs)


RUNS = {
    "agp": Run(
        agp(4) | l1(dependency_aware) | finetune(with_momentum, carries=True) | evaluate(on_images) | speed_up(),
        convolutions,
        0.5,
        IMAGES[:1],
    ),
    "annealing": Run(
        annealing(start=100, stop=20, cooling=0.7) | level() | evaluate(on_rows),
        perceptron,
        {"total_sparsity": 0.6},
    ),
    "lottery": Run(lottery(5) | finetune(with_adam) | level() | evaluate(on_rows) | reset_weight(), perceptron, 0.7),
}


def state(result: TaskResult) -> str:
    """All that a round is, as one text."""
    reports = [repr(report) for report in (*result.history, result.report)]
    scores = [(report.score, dict(report.metrics)) for report in (*result.history, result.report)]
    tensors = (result.model.params, result.model.buffers, result.masks, result.lineage, result.carried)
    return digest((tensors, scores, reports, repr(result.model), repr(result.goal)))


def reference(name: str) -> list[str]:
    """The state of every round of a run that nothing disturbs."""
    return [state(result) for result in RUNS[name].stream(None)]
