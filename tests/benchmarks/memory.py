"""Peak memory of whole runs, in N, the bytes of the model: 10 rounds and 50, one thread, each row in its own process.

    python tests/benchmarks/memory.py                       # the whole table at N = 400 MB
    python tests/benchmarks/memory.py --size 64 "level()"   # one pipeline, a smaller model

Counted is the peak of resident memory during the run over what was resident before the model was made (torch, fprune,
a run of a small model). So the column "module" counts the caller's own module, which stays as it is: the run copies it
and works on the copy. In the column "Model" the caller hands over a `Model`, which is immutable and not copied.

Large blocks come from mmap (MALLOC_MMAP_THRESHOLD_), so that what is freed goes back to the system and the peak is that
of the library, not of the allocator's reserves.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
MEGABYTE = 1_000_000
DENSE = ("level()", "level(globally)", "l1()", "l1(dependency_aware)", "l1(dependency_aware) | speed_up()")
CONVOLUTIONAL = ("level(globally)", "l1(dependency_aware)", "l1(dependency_aware) | speed_up()")
JOBS = [("mlp", stage) for stage in DENSE] + [("cnn", stage) for stage in CONVOLUTIONAL]
LAYERS = 16


def mlp(size: int) -> tuple[Any, Any]:
    """Square linear layers, `size` bytes together."""
    import torch
    from torch import nn

    width = int((size / 4 / LAYERS) ** 0.5)
    layers = [module for _ in range(LAYERS) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.ones(1, width)


def cnn(size: int) -> tuple[Any, Any]:
    """Convolutions with norms, `size` bytes together."""
    import torch
    from torch import nn

    width = int((size / 4 / LAYERS / 9) ** 0.5)
    layers = [
        module
        for _ in range(LAYERS)
        for module in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    ]
    return nn.Sequential(*layers).eval(), torch.ones(1, width, 4, 4)


NETWORKS: dict[str, Callable[[int], tuple[Any, Any]]] = {"mlp": mlp, "cnn": cnn}


def resident(key: str) -> int:
    """Bytes of `VmRSS`, what is resident now, or of `VmHWM`, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def job(network: str, stage: str, rounds: int, size: int, given: str, stored: bool) -> dict[str, float]:
    """Run a pipeline in this process; the peak over the start, in bytes and in models."""
    import fprune

    def made(count: int) -> Any:
        return eval(f"agp({count}) | {stage}", dict(vars(fprune)))

    small, x = NETWORKS[network](LAYERS * 36 * 4 * 64)
    made(1).run(small, 0.5, example_inputs=x)
    del small, x
    gc.collect()
    before = resident("VmRSS")
    net, x = NETWORKS[network](size)
    if given == "Model":
        net = fprune.Model.from_module(net)
    actual = sum(value.nbytes for value in (net.values() if given == "Model" else net.parameters()))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    with tempfile.TemporaryDirectory(dir=os.environ.get("FPRUNE_BENCHMARK_FOLDER")) as folder:
        options = {"store": str(Path(folder, "run"))} if stored else {}
        result = made(rounds).run(net, 0.5, example_inputs=x, **options)
    peak, after = resident("VmHWM") - before, resident("VmRSS") - before
    return {"peak": peak, "peak_n": peak / actual, "after_n": after / actual, "n": actual, "rounds": result.index + 1}


def measured(
    network: str, stage: str, rounds: int, size: int, given: str = "module", *, stored: bool = False
) -> dict[str, float]:
    """Run a pipeline in a process of its own."""
    told = [network, stage, str(rounds), str(size), given, str(int(stored))]
    done = subprocess.run(
        [sys.executable, __file__, "--job", *told],
        env={**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    if done.returncode:
        raise RuntimeError(f"{told}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(jobs: Sequence[tuple[str, str]], rounds: Sequence[int], size: int, stored: Sequence[bool]) -> None:
    """Print the table."""
    print(f"| network, pruner | rounds | store | peak in N, module | peak in N, Model |   (N = {size / MEGABYTE:g} MB)")
    print("|---|---|---|---|---|")
    for network, stage in jobs:
        for folder in stored:
            for count in rounds:
                found = [measured(network, stage, count, size, given, stored=folder) for given in ("module", "Model")]
                peaks = " | ".join(f"{one['peak_n']:.2f}" for one in found)
                print(f"| {network}, `{stage}` | {count} | {'yes' if folder else 'no'} | {peaks} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        network, stage, rounds, size, given, stored = sys.argv[2:]
        print(json.dumps(job(network, stage, int(rounds), int(size), given, bool(int(stored)))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("pruners", nargs="*", help="part of a row's name; all rows by default")
        parser.add_argument("--size", type=float, default=400, help="megabytes of the model")
        parser.add_argument("--rounds", type=int, nargs="+", default=[10, 50])
        parser.add_argument("--store", action="store_true", help="with run folders as well")
        given = parser.parse_args()
        wanted = [job for job in JOBS if not given.pruners or any(part in job for part in given.pruners)]
        main(wanted, given.rounds, int(given.size * MEGABYTE), (False, True) if given.store else (False,))
