"""CPU seconds and peak memory of the main job on ResNet-18 at 224 pixels, sparsity 0.5, one thread.

    python tests/benchmarks/pipeline.py              # the whole table, each row in a process of its own
    python tests/benchmarks/pipeline.py agp_masks    # one row

The column NNI holds what NNI 2.10 takes for the same job on the machine where the aims were set, one thread.
CPU seconds, not wall seconds: other work on the machine does not count. Memory is the peak of resident memory during
the job, minus what was resident before it (torch, the model, the example input). A tiny network is traced before the
job, because torch loads some 800 modules the first time a process runs anything on the meta device; the row "first in
its process" leaves that out and pays for it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CONFIG = [{"op_types": ["Conv2d"], "sparsity": 0.5}]
SPEED_UP_ROUNDS = 10


def nothing(module: nn.Module) -> None:
    """Finetuning that does not train: the benchmark is about the machinery around it."""


def constant(module: nn.Module) -> float:
    """An evaluation that does not look."""
    return 1.0


def network() -> tuple[nn.Module, tuple[torch.Tensor]]:
    from tests.zoo.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval(), (torch.randn(1, 3, 224, 224),)


def decision_cold() -> Callable[[], Any]:
    from fprune import Model, dependency_aware, l1

    net, x = network()
    return lambda: l1(dependency_aware).masks(Model.from_module(net), CONFIG, example_inputs=x)


def decision_known() -> Callable[[], Any]:
    from fprune import Model, dependency_aware, inputs, l1, structure

    net, x = network()
    model = Model.from_module(net)
    known = structure.trace(model, inputs(*x))
    return lambda: l1(dependency_aware).masks(model, CONFIG, structure=known, example_inputs=x)


def speed_up_once() -> Callable[[], Any]:
    from fprune import Config, Goal, Model, TaskResult, dependency_aware, l1, speed_up

    net, x = network()
    start = TaskResult.start(Model.from_module(net), Config.of(CONFIG), example_inputs=x, seed=0)
    masked = l1(dependency_aware)(start.next(Goal(Config.of(CONFIG), final=True)))
    return lambda: speed_up()(masked)


def agp_speed_up() -> Callable[[], Any]:
    from fprune import agp, dependency_aware, evaluate, finetune, l1, speed_up

    net, x = network()
    pipeline = agp(SPEED_UP_ROUNDS) | l1(dependency_aware) | speed_up() | finetune(nothing) | evaluate(constant)
    return lambda: pipeline.run(net, CONFIG, example_inputs=x)


def agp_masks() -> Callable[[], Any]:
    from fprune import agp, dependency_aware, evaluate, finetune, l1

    net, x = network()
    pipeline = agp(SPEED_UP_ROUNDS) | l1(dependency_aware) | finetune(nothing) | evaluate(constant)
    return lambda: pipeline.run(net, CONFIG, example_inputs=x)


def warm_up() -> None:
    """Have torch load what it loads late."""
    from fprune import dependency_aware, l1, one_shot, speed_up

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tiny = nn.Sequential(net, nn.Linear(4, 2)).eval()
    pipeline = one_shot() | l1(dependency_aware) | speed_up()
    pipeline.run(tiny, CONFIG, example_inputs=(torch.ones(1, 3, 8, 8),))


# name -> (what it is, its preparation, NNI's CPU seconds, NNI's memory, the aim)
JOBS: dict[str, tuple[str, Callable[[], Callable[[], Any]], str, str, str]] = {
    "decision_cold": ("dependency-aware L1 decision, cold", decision_cold, "0.63", "", "0.3"),
    "decision_first": ("the same, first in its process", decision_cold, "", "", ""),
    "decision_known": ("the decision, structure known", decision_known, "0.63", "", "0.02"),
    "speed_up_once": ("speed_up, structure known", speed_up_once, "9.15", "2.8 GB", "0.5"),
    "agp_speed_up": ("AGP, 11 rounds, speed_up in each", agp_speed_up, "84.7", "2.5 GB", "8"),
    "agp_masks": ("AGP, 11 rounds, masks only", agp_masks, "8.2", "", "0.8"),
}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str) -> dict[str, Any]:
    """Prepare, then run the job once; what it returns is told by its parameter count."""
    torch.set_num_threads(1)
    if name != "decision_first":
        warm_up()
    job = JOBS[name][1]()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # starts the peak afresh, so that it is the job's own
    before, cpu, wall = resident(), time.process_time(), time.perf_counter()
    result = job()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    model = getattr(result, "model", None)
    return {"cpu": cpu, "wall": wall, "memory": max(0, peak() - before), "params": getattr(model, "num_params", None)}


def in_child(name: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), name, "--child"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=[], help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each job; the median is shown")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.jobs) - set(JOBS)):
        parser.error(f"no job {unknown}; there are {sorted(JOBS)}")
    if chosen.child:
        print(json.dumps(measure(chosen.jobs[0])))
        return

    header = f"{'job':36}{'CPU s':>8}{'NNI':>8}{'aim':>7}{'wall s':>9}{'memory':>10}{'NNI':>9}{'parameters':>13}"
    print(header, "-" * len(header), sep="\n")
    for name in chosen.jobs or JOBS:
        title, _, nni, nni_memory, aim = JOBS[name]
        runs = [in_child(name) for _ in range(chosen.repeats)]
        cpu, wall, memory = (statistics.median(run[key] for run in runs) for key in ("cpu", "wall", "memory"))
        params = f"{runs[0]['params']:,}" if runs[0]["params"] else ""
        print(f"{title:36}{cpu:8.3f}{nni:>8}{aim:>7}{wall:9.3f}{memory / 1e6:7.0f} MB{nni_memory:>9}{params:>13}")


if __name__ == "__main__":
    main()
