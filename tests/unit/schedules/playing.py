"""Playing a schedule by hand: settings of small networks, and scores made up from the sparsities that are asked for."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fprune.compose import Schedule
from fprune.config import Config
from fprune.records import Goal, Report
from fprune.setting import Setting

Scores = Callable[[Goal, int], float | None]


def layered(sizes: Sequence[int]) -> dict[str, Tensor]:
    """Weights of so many elements, named `l0`, `l1`, ..."""
    return {f"l{i}": torch.zeros(1, size, device="meta") for i, size in enumerate(sizes)}


def setting_of(sizes: Sequence[int], config: Any, seed: int = 0) -> Setting:
    return Setting(Config.of(config).resolve(layered(sizes)), seed)


class Residual(nn.Module):
    """A stem whose channels meet those of a second convolution, an inner one, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.outer = nn.Conv2d(12, 8, 1)
        self.down = nn.Conv2d(8, 8, 1, stride=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.outer(torch.relu(self.inner(x))) + self.down(x))
        return self.fc(x.mean((2, 3)))


IMAGES = torch.ones(2, 1, 8, 8)


def played(schedule: Schedule, setting: Setting, config: Any, score: Scores, most: int = 10_000) -> list[Goal]:
    """The goals of a schedule whose rounds get made-up scores."""
    (call,) = schedule.calls
    goals: Generator[Goal, Report | None, None] = call(Config.of(config), setting)
    found: list[Goal] = []
    report: Report | None = None
    while len(found) < most:
        try:
            found.append(goals.send(report))
        except StopIteration:
            return found
        report = Report(len(found) - 1, found[-1], score(found[-1], len(found) - 1))
    raise AssertionError(f"more than {most} goals")


def sparsities(goal: Goal) -> dict[str, float]:
    return {rule.op_names[0]: rule.amount for rule in goal.config.rules if not rule.exclude}


def weighted(goal: Goal, sizes: Sequence[int], names: Sequence[str] | None = None) -> float:
    """The mean sparsity weighted by size."""
    found = sparsities(goal)
    pairs = [(found[f"l{i}"], size) for i, size in enumerate(sizes) if names is None or f"l{i}" in names]
    return sum(s * n for s, n in pairs) / sum(n for _, n in pairs)
