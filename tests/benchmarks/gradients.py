"""What pruners that look at gradients cost beyond the gradients themselves, in CPU seconds of one thread.

Run it as `OMP_NUM_THREADS=1 python tests/benchmarks/gradients.py`; it needs torchvision. Each line is measured in a
process of its own, the median of a few repetitions, by turns with its reference. The difference is what a decision
adds to the gradients; the ratio is how many times longer the reference takes. Images are small because a decision does
not depend on them.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tests.zoo.torchvision_ops  # noqa: F401  a torchvision wheel need not fit the build of torch
from fprune.allocate import dependency_aware, globally
from fprune.criteria import fisher_diagonal
from fprune.model import Model
from fprune.pruners import fisher, grasp, hessian, snip, synflow, taylor

Work = Callable[[], object]
SAMPLES = 256


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def resnet18() -> tuple[nn.Module, list[Any]]:
    """11.7 M parameters, and one batch of four images."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval(), [(torch.randn(4, 3, 32, 32), torch.randint(0, 1000, (4,)))]


def mlp() -> tuple[nn.Module, list[Any]]:
    """512-2048-10, and 256 samples."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 10))
    return net, [(torch.randn(SAMPLES, 512), torch.randint(0, 10, (SAMPLES,)))]


def backward(net: nn.Module, batches: list[Any]) -> Work:
    """A forward and a backward pass for each batch, nothing else."""

    def work() -> None:
        for batch in batches:
            net.zero_grad()
            loss(net, batch).backward()

    return work


def per_sample(net: nn.Module, batches: list[Any]) -> Work:
    """The diagonal of the Fisher matrix by one backward pass for each sample."""

    def work() -> None:
        total = [torch.zeros_like(param) for param in net.parameters()]
        for x, y in batches:
            for n in range(len(x)):
                net.zero_grad()
                loss(net, (x[n : n + 1], y[n : n + 1])).backward()
                for sums, param in zip(total, net.parameters(), strict=True):
                    sums.addcmul_(param.grad, param.grad)

    return work


def prune(make: Callable[..., Any], *options: Any, sparsity: Any = 0.5, **named: Any) -> Callable[..., Work]:
    """A pruner's masks for a model that is already there."""

    def prepared(net: nn.Module, batches: list[Any]) -> Work:
        model, stage = Model.from_module(net), make(loss, batches, *options, **named)
        return lambda: stage.masks(model, sparsity)

    return prepared


def diagonal(net: nn.Module, batches: list[Any]) -> Work:
    """The scores of `fisher`, nothing removed."""
    model, criterion = Model.from_module(net), fisher_diagonal(loss, batches)
    return lambda: criterion(model, model.layers)


def coupled(net: nn.Module, batches: list[Any]) -> Work:
    """Taylor by whole units, the structure traced beforehand."""
    from fprune.structure import trace

    model, stage = Model.from_module(net), taylor(loss, batches, dependency_aware)
    structure = trace(model, batches[0][0][:1])
    return lambda: stage.masks(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}], structure=structure)


def without_data(net: nn.Module, batches: list[Any]) -> Work:
    model, stage = Model.from_module(net), synflow(rounds=10)
    return lambda: stage.masks(model, 0.9, example_inputs=batches[0][0][:1])


LINES: dict[str, tuple[Callable[[], tuple[nn.Module, list[Any]]], Callable[..., Work], int, str]] = {
    "ResNet-18, gradients": (resnet18, backward, 15, ""),
    "taylor()": (resnet18, prune(taylor), 15, "ResNet-18, gradients"),
    "taylor(globally)": (resnet18, prune(taylor, globally), 15, "ResNet-18, gradients"),
    "taylor(dependency_aware)": (resnet18, coupled, 9, "ResNet-18, gradients"),
    "snip()": (resnet18, prune(snip), 9, "ResNet-18, gradients"),
    "grasp()": (resnet18, prune(grasp), 5, ""),
    "hessian(probes=1)": (resnet18, prune(hessian, probes=1), 5, ""),
    "synflow(rounds=10)": (resnet18, without_data, 1, ""),
    "MLP 512-2048-10, sample by sample": (mlp, per_sample, 3, ""),
    "scores of fisher, 256 samples": (mlp, diagonal, 9, "MLP 512-2048-10, sample by sample"),
    "fisher(), 256 samples": (mlp, prune(fisher), 9, "MLP 512-2048-10, sample by sample"),
    "ResNet-18, sample by sample": (resnet18, per_sample, 3, ""),
    "fisher(), 4 samples": (resnet18, prune(fisher), 3, "ResNet-18, sample by sample"),
}


def timed(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str) -> tuple[float, float]:
    """CPU seconds of a line and of its reference, by turns, so that other work on the machine is the same for both."""
    torch.set_num_threads(1)
    make, prepare, repetitions, of = LINES[name]
    works = [prepare(*make()), LINES[of][1](*make()) if of else lambda: None]
    for work in works:
        work()  # the first call imports parts of torch
    seconds = [[timed(work) for work in works] for _ in range(repetitions)]
    return statistics.median(one for one, _ in seconds), statistics.median(other for _, other in seconds)


def main() -> None:
    """Print the table."""
    print(f"{'':36} {'CPU s':>8} {'beyond':>8} {'ratio':>7}")
    for name, (*_, of) in LINES.items():
        out = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        own, other = json.loads(out)
        print(f"{name:36} {own:8.3f} " + (f"{own - other:8.3f} {other / own:6.1f}x" if of else ""), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
