"""What keeping a run costs: python tests/benchmarks/store.py

Reports only; CPU seconds of this process, so that other work on the machine does not count, and for commits, which
also wait for the disk, seconds on the clock. The network has the size of a ResNet-18: 122 tensors, 45 MB.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import attrs
import torch
from safetensors.torch import save_file
from torch import nn

from fprune import TaskResult, evaluate, finetune, level, one_shot, reset_weight, stage_cache
from fprune.checkpoint import disk
from fprune.checkpoint.encode import encoded
from fprune.checkpoint.layout import STATE, keep, round_name
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


def commits(times: int = 9) -> None:
    """A round kept in a run's folder, beside the same bytes written by safetensors, forced to the disk or not."""
    result = (one_shot() | level()).run(network(), 0.5)
    tensors = encoded(result)[1]

    def commit(folder: Path, i: int) -> None:
        keep(folder, result.replace(task=attrs.evolve(result.task, index=i)), "run", None)

    def plain(folder: Path, i: int) -> None:
        save_file(tensors, folder / f"{i}.safetensors")

    def forced(folder: Path, i: int) -> None:
        plain(folder, i)
        with (folder / f"{i}.safetensors").open("rb") as file:
            os.fsync(file.fileno())

    def read_back(folder: Path, i: int) -> None:
        found = disk.digest_file(folder / round_name(i) / STATE)
        assert found.bytes

    print(
        f"{'':<32}{'clock s':>9}{'CPU s':>9}   {times} times, median; {sum(t.nbytes for t in tensors.values()):,} bytes"
    )
    ways = {"safetensors": plain, "safetensors, fsync": forced, "a round": commit, "its digest alone": read_back}
    with tempfile.TemporaryDirectory(dir=".") as name:  # /tmp may be in memory, where fsync does nothing
        for what, way in ways.items():
            found = [clocked(lambda way=way, i=i: way(Path(name), i)) for i in range(times)]
            clock, spent = (statistics.median(part) for part in zip(*found, strict=True))
            print(f"{what:<32}{clock:9.3f}{spent:9.3f}")


def clocked(fn: Callable[[], object]) -> tuple[float, float]:
    clock, spent = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - clock, time.process_time() - spent


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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    commits()
    keys()
    outcomes()


if __name__ == "__main__":
    main()
