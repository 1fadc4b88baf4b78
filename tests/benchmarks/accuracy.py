"""Every pruner on scikit-learn's digits, at equal training: python tests/benchmarks/accuracy.py

A residual network of 8 and 16 channels is trained once for each seed. Each pruner then removes 50, 75 and 90 % of the
weights of its convolutions and linear layer, or channels until a half or a quarter of the FLOPs is left, at once
(`one_shot`, then 4 epochs of training) or gradually (`agp(3)`, 4 rounds of 1 epoch). Pruners that train on their own
spend their epochs beside that. The table has the mean accuracy on the test images over the seeds, in per cent.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fprune as fp
from fprune.allocate import Allocation
from fprune.compose import Stage
from fprune.demo import BATCH, Network, accuracy, digits, learn

EPOCHS = 4
CHANNELS = 8
LAYERS = ["Conv2d", "Linear"]
ELEMENTS = (0.5, 0.75, 0.9)
FLOPS = (0.5, 0.75)  # removed: two and four times fewer


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def forward(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    data = digits()
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))[: count * BATCH]
    return [(data.train_images[part], data.train_labels[part]) for part in order.split(BATCH)]


FEW, ALL = batches(8), batches(100)

Make = Callable[[Allocation], Stage]
WEIGHTS: dict[str, Make] = {
    "level": fp.level,
    "random": fp.random,
    "taylor": lambda a: fp.taylor(loss, FEW, a, granularity="element"),
    "snip": lambda a: fp.snip(loss, FEW, a),
    "grasp": lambda a: fp.grasp(loss, FEW, a),
    "synflow": lambda a: fp.synflow(a),
    "fisher": lambda a: fp.fisher(loss, FEW, a),
    "hessian": lambda a: fp.hessian(loss, FEW, a),
    "admm": lambda a: fp.admm(loss, ALL, a, iterations=3, epochs=1),
    "movement": lambda a: fp.movement(loss, ALL, a, epochs=3),
}
CHANNEL: dict[str, Make] = {
    "l1": fp.l1,
    "l2": fp.l2,
    "fpgm": fp.fpgm,
    "random": lambda a: fp.random(a, granularity="channel"),
    "slim": lambda a: fp.slim(loss, ALL, a, epochs=3),
    "taylor": lambda a: fp.taylor(loss, FEW, a),
    "taylor, gates": lambda a: fp.taylor(loss, FEW, a, form="gate"),
    "apoz": lambda a: fp.apoz(forward, FEW, a),
    "mean_activation": lambda a: fp.mean_activation(forward, FEW, a),
    "fisher": lambda a: fp.fisher(loss, FEW, a),
}
SCHEDULES = {"one_shot": (fp.one_shot(), EPOCHS), "agp": (fp.agp(EPOCHS - 1), 1)}


@attrs.frozen
class Trainer:
    """Trains for some epochs; equal trainers are equal, so that expressions compare."""

    epochs: int

    def __call__(self, module: nn.Module) -> None:
        learn(module, range(self.epochs), rate=0.05)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Network(CHANNELS)
    learn(net, range(15), rate=0.1)
    return net


def pruned(net: nn.Module, make: Make, kind: str, amount: float, schedule: str, seed: int) -> float:
    steps, epochs = SCHEDULES[schedule]
    key: dict[str, Any] = {"total_sparsity": amount} if kind == "weights" else {"budget": {"flops": amount}}
    allocation = fp.globally if kind == "weights" else fp.dependency_aware
    pipeline = steps | make(allocation) | fp.finetune(Trainer(epochs)) | fp.evaluate(accuracy)
    config = [{"op_types": LAYERS if kind == "weights" else ["Conv2d"], **key}]
    result = pipeline.run(net, config, example_inputs=digits().test_images[:2], seed=seed)
    if kind == "weights":
        assert abs(result.report.sparsity - amount) < 1e-3, result.report
    else:
        counted = (
            fp.count(net, digits().test_images[:2], result.masks).flops / fp.count(net, digits().test_images[:2]).flops
        )
        assert 1 - amount - 0.15 < counted <= 1 - amount, counted  # a channel of eight is worth several per cent
    return accuracy(result.module())


def peer(net: nn.Module, amount: float, schedule: str, seed: int) -> float:
    """The same with torch.nn.utils.prune: the smallest weights of all layers together."""
    torch.manual_seed(seed)
    module = fp.Model.from_module(net).to_module()
    layers = [(m, "weight") for m in module.modules() if type(m).__name__ in LAYERS]
    fractions = (
        [amount] if schedule == "one_shot" else [amount * (1 - (1 - t / (EPOCHS - 1)) ** 3) for t in range(EPOCHS)]
    )
    total, gone = sum(m.weight.numel() for m, _ in layers), 0
    for fraction in fractions:
        wanted = int(fraction * total)
        prune.global_unstructured(layers, prune.L1Unstructured, amount=wanted - gone)
        gone = wanted
        learn(module, range(SCHEDULES[schedule][1]), rate=0.05)
    return accuracy(module)


def columns() -> Iterator[tuple[str, float, str]]:
    for schedule in SCHEDULES:
        yield from (("weights", amount, schedule) for amount in ELEMENTS)
    for schedule in SCHEDULES:
        yield from (("channels", amount, schedule) for amount in FLOPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="pruners; all by default")
    parser.add_argument("--kinds", nargs="*", default=["weights", "channels"], help="weights, channels, or both")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    nets = [network(seed) for seed in range(chosen.seeds)]
    print(f"dense: {statistics.mean(map(accuracy, nets)):.2%}", flush=True)
    for kind, makes in (("weights", WEIGHTS), ("channels", CHANNEL)):
        if kind not in chosen.kinds:
            continue
        asked = [(amount, schedule) for k, amount, schedule in columns() if k == kind]
        print("| pruner | " + " | ".join(f"{schedule} {amount:.0%}" for amount, schedule in asked) + " | CPU s |")
        print("|---" * (len(asked) + 2) + "|")
        every: dict[str, Make | None] = {**makes, **({"torch.nn.utils.prune": None} if kind == "weights" else {})}
        for name, make in every.items():
            if chosen.only and name not in chosen.only:
                continue
            begin, cells = time.process_time(), []
            for amount, schedule in asked:
                found = [
                    peer(net, amount, schedule, seed)
                    if make is None
                    else pruned(net, make, kind, amount, schedule, seed)
                    for seed, net in enumerate(nets)
                ]
                cells.append(f"{statistics.mean(found):.1%}")
            print(f"| {name} | " + " | ".join(cells) + f" | {time.process_time() - begin:.0f} |", flush=True)


if __name__ == "__main__":
    main()
