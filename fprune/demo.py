"""The main job on real data: a small residual network learns digits, loses most of its channels, and is measured.

Everything here is ordinary PyTorch around one pipeline; `recipe` is the part to copy.
"""

import copy
import statistics
import time
from collections.abc import Collection
from functools import cache
from typing import Any, cast

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fprune.allocate import dependency_aware
from fprune.compose import Pipeline
from fprune.pruners import l1
from fprune.records import TaskResult
from fprune.schedules import agp
from fprune.stages import evaluate, finetune, speed_up
from fprune.tables import text_table

CHANNELS = 32
DENSE_EPOCHS = 15
ROUND_EPOCHS = 3
BATCH = 64


@attrs.frozen
class Digits:
    """Images `(n, 1, 8, 8)` in [0, 1] and their labels, in a split that is the same every time."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def digits() -> Digits:
    """Scikit-learn's 1,797 digits: every fourth image of each class is for testing."""
    import sklearn.datasets

    bunch = cast(Any, sklearn.datasets).load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target)
    occurrence = torch.stack([labels == label for label in range(10)]).cumsum(1)[labels, torch.arange(len(labels))]
    test = occurrence % 4 == 0
    return Digits(images[~test], labels[~test], images[test], labels[test])


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a strided convolution when the shape changes."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, h, w)` to `(n, out, h / stride, w / stride)`."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class Network(nn.Module):
    """A residual network for 8x8 images: a stem, a block, a strided block, and a linear layer over the mean."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.block1 = Block(channels, channels)
        self.block2 = Block(channels, 2 * channels, stride=2)
        self.fc = nn.Linear(2 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, 1, 8, 8)` to logits `(n, 10)`."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.block2(self.block1(x))
        return self.fc(x.mean((2, 3)))


def learn(module: nn.Module, epochs: Collection[int], rate: float) -> None:
    """Train in place with SGD; the learning rate warms up and falls to zero over the epochs."""
    data = digits()
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(epochs) * -(-len(data.train_labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    module.train()
    for _ in epochs:
        order = torch.randperm(len(data.train_labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            F.cross_entropy(module(data.train_images[batch]), data.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()


def train(module: nn.Module) -> None:
    """What follows each round of pruning: a few epochs at a lower rate."""
    learn(module, range(ROUND_EPOCHS), rate=0.05)


def accuracy(module: nn.Module) -> float:
    """The fraction of test images that the module names correctly."""
    data = digits()
    with torch.no_grad():
        return float((module.eval()(data.test_images).argmax(1) == data.test_labels).double().mean())


def recipe(rounds: int) -> Pipeline:
    """The pipeline of the demo: in every round prune, train, measure, and cut out what was pruned."""
    return agp(rounds) | l1(dependency_aware) | finetune(train) | evaluate(accuracy) | speed_up()


@attrs.frozen
class Measured:
    """What the demo's table says about one network."""

    accuracy: float
    parameters: int
    zeros: int
    flops: int
    milliseconds: float

    @classmethod
    def of(cls, module: nn.Module, accuracy: float) -> "Measured":
        """Count and time a network; its accuracy was measured before."""
        values = list(module.parameters())
        zeros = sum(int((value == 0).sum()) for value in values)
        return cls(accuracy, sum(value.numel() for value in values), zeros, flops(module), latency(module))


@attrs.frozen
class Outcome:
    """The demo's three networks, and the largest difference between the outputs of the last two."""

    dense: Measured
    pruned: Measured
    compact: Measured
    difference: float
    result: TaskResult

    def table(self) -> str:
        """The three networks as rows of a plain-text table."""
        rows = [
            (
                name,
                f"{m.accuracy:.2%}",
                f"{m.parameters:,}",
                f"{m.zeros:,}",
                f"{m.flops / 1e6:.2f} M",
                f"{m.milliseconds:.1f}",
            )
            for name, m in (("dense", self.dense), ("pruned", self.pruned), ("compact", self.compact))
        ]
        images = len(digits().test_labels)
        return text_table(("network", "accuracy", "parameters", "of them 0", "FLOPs", f"ms for {images} images"), rows)


def flops(module: nn.Module) -> int:
    """Floating-point operations for one image: a multiplication and an addition count as two."""
    image = torch.empty(1, 1, 8, 8, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).eval().to("meta")(image)
    return counter.get_total_flops()


def latency(module: nn.Module, repeats: int = 20) -> float:
    """The median time, in milliseconds, to name all test images in one batch."""
    images, times = digits().test_images, list[float]()
    with torch.no_grad():
        for _ in range(repeats + 3):
            start = time.perf_counter()
            module.eval()(images)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def masked(result: TaskResult) -> nn.Module:
    """The network at its original size with every pruned unit at zero: what the compact one has to agree with."""
    params, buffers = result.lineage.expand(result.model), result.lineage.expand(result.model.buffers)
    return result.origin.replace(params=params, buffers=buffers).to_module().eval()


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between two networks' outputs on the test images, computed in float64."""
    images = digits().test_images.double()
    with torch.no_grad():
        pair = [copy.deepcopy(module).double().eval()(images) for module in (one, other)]
    return float((pair[0] - pair[1]).abs().max())


def run(seed: int = 0, rounds: int = 10, sparsity: float = 0.7, epochs: int = DENSE_EPOCHS) -> Outcome:
    """Train, prune and measure, with a progress bar on the error stream.

    Args:
        seed: for the initial weights, the order of the images, and everything random in the pipeline.
        rounds: AGP's number of steps; there is one round more, since the first has nothing to prune.
        sparsity: the fraction of each convolution's output channels to remove, in [0, 1).
        epochs: how long the dense network trains.
    """
    import tqdm

    bar = cast(Any, tqdm).tqdm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network()
        learn(net, bar(range(epochs), desc="train", unit="epoch"), rate=0.1)
    dense = Measured.of(net, accuracy(net))

    config = [{"op_types": ["Conv2d"], "sparsity": sparsity}]
    stream = recipe(rounds).stream(net, config, example_inputs=digits().test_images[:2], seed=seed)
    *_, result = bar(stream, desc="prune", unit="round", total=rounds + 1)

    whole, compact = masked(result), result.module().eval()
    return Outcome(
        dense,
        Measured.of(whole, accuracy(whole)),
        Measured.of(compact, accuracy(compact)),
        difference(whole, compact),
        result,
    )
