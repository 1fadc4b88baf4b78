"""What keeping a run costs: python tests/benchmarks/store.py

Reports only; CPU seconds of this process, so that other work on the machine does not count. The network has the size
of a ResNet-18: 122 tensors, 45 MB.
"""

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from fprune import TaskResult, evaluate, finetune, level, reset_weight, stage_cache
from fprune.compose import Stage
from fprune.records import Goal
from fprune.store.digests import Digests
from fprune.store.keys import key


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = before == after
        around = [] if same else [nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)]
        self.around = nn.Sequential(*around)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.way(x) + self.around(x))


def network() -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths = [64, 64, 128, 256, 512]
    blocks = [
        Block(before if first else after, after, 2 if first and before != after else 1)
        for before, after in pairwise(widths)
        for first in (True, False)
    ]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def cpu(fn: Callable[[], object]) -> float:
    start = time.process_time()
    fn()
    return time.process_time() - start


def nudge(module: nn.Module) -> None:
    """Training that changes every parameter and costs next to nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)


def keys() -> None:
    """The key of a stage: of a new model, and when its tensors are known already."""
    start, digests = TaskResult.start(network(), 0.5), Digests()
    new = cpu(lambda: key(start, "start", digests))
    known = cpu(lambda: key(start, "start", digests))
    print(f"key of a stage   {new:6.3f} CPU s with new tensors, {known:6.3f} with known ones")


def outcomes() -> None:
    """A stage without a cache, when its outcome is put there, and when it is taken from there.

    Each row includes the hashing of the network that the stages are given, which a run does once.
    """
    print(f"{'stage':<20}{'without':>10}{'first':>10}{'again':>10}   CPU s")
    start = TaskResult.start(network(), 0.5).next(Goal(0.5))
    stages: dict[str, Stage] = {
        "level": level(),
        "finetune": finetune(nudge),
        "evaluate": evaluate(lambda module: 0.5),
        "reset_weight": reset_weight(),
        "all four": level() | finetune(nudge) | evaluate(lambda module: 0.5) | reset_weight(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, stage in stages.items():
            cache = stage_cache(Path(folder) / name)
            first, again = (cache.step(stage.calls, stage.through, start) for _ in range(2))
            seconds = [cpu(lambda do=do: do(start)) for do in (stage, first, again)]
            print(f"{name:<20}{seconds[0]:10.3f}{seconds[1]:10.3f}{seconds[2]:10.3f}")


def main() -> None:
    torch.manual_seed(0)
    keys()
    outcomes()


if __name__ == "__main__":
    main()
