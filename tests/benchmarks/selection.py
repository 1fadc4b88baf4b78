"""What selections cost: CPU seconds of one thread, memory, and the ratio to `torch.nn.utils.prune` in the same run.

Run it as `OMP_NUM_THREADS=1 python tests/benchmarks/selection.py`. Each line is measured in a process of its own, the
best of a few repetitions. Memory is the peak over what the weights and the libraries take.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fprune.allocate import globally, n_m
from fprune.pruners import fpgm, l1, level


def resnet50() -> dict[str, Tensor]:
    """Weights with the shapes of ResNet-50: 25.5 M elements in 54 tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 3, 7, 7)]
    for width, blocks, inputs in ((64, 3, 64), (128, 4, 256), (256, 6, 512), (512, 3, 1024)):
        for block in range(blocks):
            entry = inputs if block == 0 else 4 * width
            shapes += [(width, entry, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            shapes += [(4 * width, entry, 1, 1)] if block == 0 else []
    shapes.append((1000, 2048))
    return {f"l{i:02d}.weight": torch.randn(shape, generator=generator) * 0.05 for i, shape in enumerate(shapes)}


def resnet18() -> dict[str, Tensor]:
    """Weights with the shapes of the convolutions of ResNet-18: 11.2 M elements in 20 tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 3, 7, 7)] + [(64, 64, 3, 3)] * 4
    for width in (128, 256, 512):
        shapes += [(width, width // 2, 3, 3), *[(width, width, 3, 3)] * 3, (width, width // 2, 1, 1)]
    return {f"c{i:02d}.weight": torch.randn(shape, generator=generator) * 0.05 for i, shape in enumerate(shapes)}


def peer_global(params: dict[str, Tensor]) -> None:
    """The peer's global selection, on modules it may change."""
    modules = [nn.ParameterDict({"weight": nn.Parameter(value)}) for value in params.values()]
    prune.global_unstructured([(m, "weight") for m in modules], pruning_method=prune.L1Unstructured, amount=0.8)


def peer_structured(params: dict[str, Tensor]) -> None:
    """The peer's structured pruning of each layer by the L1 norm."""
    for value in params.values():
        prune.ln_structured(nn.ParameterDict({"weight": nn.Parameter(value)}), "weight", amount=0.5, n=1, dim=0)


def loops(params: dict[str, Tensor]) -> None:
    """Distances between filters with `torch.cdist` and a sort, as other libraries do."""
    for value in params.values():
        torch.cdist(value.flatten(1), value.flatten(1)).sum(dim=1).argsort()


LINES: dict[str, tuple[Callable[[], dict[str, Tensor]], Callable[[dict[str, Tensor]], object], int, str]] = {
    "level(globally), 80 %, ResNet-50": (resnet50, lambda p: level(globally).masks(p, 0.8), 5, ""),
    "global_unstructured, 80 %": (resnet50, peer_global, 1, "level(globally), 80 %, ResNet-50"),
    "level(), 80 %, ResNet-50": (resnet50, lambda p: level().masks(p, 0.8), 5, ""),
    "level(n_m(2, 4)), ResNet-50 without its stem": (
        lambda: {name: value for name, value in resnet50().items() if value.shape[1] % 4 == 0},
        lambda p: level(n_m(2, 4)).masks(p, 0.5),
        3,
        "",
    ),
    "l1(), 50 %, ResNet-18": (resnet18, lambda p: l1().masks(p, 0.5), 9, ""),
    "ln_structured, 50 %": (resnet18, peer_structured, 3, "l1(), 50 %, ResNet-18"),
    "fpgm(), 50 %, ResNet-18": (resnet18, lambda p: fpgm().masks(p, 0.5), 9, ""),
    "cdist and argsort": (resnet18, loops, 3, "fpgm(), 50 %, ResNet-18"),
}


def measure(name: str) -> tuple[float, float]:
    """CPU seconds, and MiB over what was there before."""
    torch.set_num_threads(1)
    make, work, repetitions, _ = LINES[name]
    params = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        work(params)
        seconds.append(time.process_time() - start)
    return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print the table."""
    print(f"{'':46} {'CPU s':>8} {'MiB':>7} {'ratio':>7}")
    found: dict[str, float] = {}
    for name, (*_, of) in LINES.items():
        out = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        seconds, memory = json.loads(out)
        found[name] = seconds
        ratio = f"{seconds / found[of]:6.1f}x" if of else ""
        print(f"{name:46} {seconds:8.3f} {memory:7.0f} {ratio:>7}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
