"""Laws of every pruner that looks at data: it changes nothing of the caller's, draws by its seed, keeps no batch."""

import gc
import inspect
import random as python_random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fprune
from fprune.allocate import per_layer
from fprune.compose import Factory, Stage
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.errors import StageError
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.testing import untouched
from fprune.tree import digest

PRUNERS: dict[str, Callable[..., Stage]] = {
    "taylor": fprune.taylor,
    "taylor, gates": partial(fprune.taylor, form="gate"),
    "snip": fprune.snip,
    "grasp": fprune.grasp,
    "fisher": fprune.fisher,
    "hessian": fprune.hessian,
    "apoz": partial(fprune.apoz, activation="relu"),
    "mean_activation": fprune.mean_activation,
    "slim": partial(fprune.slim, factors="learned"),
    "admm": partial(fprune.admm, iterations=2),
    "movement": fprune.movement,
}
ALWAYS_TRAIN = ("slim", "admm", "movement")
CASES = [(name, False) for name in PRUNERS] + [(name, True) for name in PRUNERS if name not in ALWAYS_TRAIN]
cases = pytest.mark.parametrize(("name", "training"), CASES)


def test_every_public_pruner_that_takes_batches_is_listed() -> None:
    public = [name for name in vars(fprune) if isinstance(getattr(fprune, name), Factory)]
    found = {name for name in public if "batches" in inspect.signature(getattr(fprune, name)).parameters}
    assert found == {name.split(",")[0] for name in PRUNERS}


def made(name: str, *args: Any, training: bool = False) -> Stage:
    return PRUNERS[name](*args, **({} if name in ALWAYS_TRAIN else {"training": training}))


def network() -> nn.Module:
    """Flags that differ, a frozen parameter, a norm with statistics, dropout, an activation that writes in place."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )
    net.train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    return net


Batch = tuple[Tensor, Tensor]


@attrs.define(eq=False)
class Data:
    """Fresh batches at every reading; knows which one is out, and how many numbers are in memory at some of them."""

    count: int = 3
    watched: tuple[int, ...] = ()
    at: int = -1
    alive: list[int] = attrs.field(factory=list)

    def __iter__(self) -> Iterator[Batch]:
        for at in range(self.count):
            self.at = at
            if at in self.watched and len(self.alive) < len(self.watched):  # in the first pass
                self.alive.append(numbers_in_memory())
            draw = torch.Generator().manual_seed(at)
            yield torch.randn(4, 1, 6, 6, generator=draw), torch.randn(4, 3, generator=draw)
        self.at = -1


def numbers_in_memory() -> int:
    gc.collect()
    return sum(value.numel() for value in gc.get_objects() if type(value) in (Tensor, nn.Parameter))


def drawing(model: Any, batch: Batch) -> Tensor:
    """A loss that draws from every generator."""
    drawn = torch.rand(()) + python_random.random() + np.random.rand()
    return (model(batch[0]) - batch[1]).square().mean() * (1 + drawn)


X = torch.ones(1, 1, 6, 6)


@cases
def test_nothing_of_the_callers_changes(name: str, training: bool) -> None:
    net, kept = network(), list(Data())
    stage = made(name, drawing, kept, training=training)
    with untouched(net, kept, X):
        assert stage.masks(Model.from_module(net), 0.5, example_inputs=X, seed=3)
    with torch.no_grad(), untouched(net, kept, X):
        assert (fprune.one_shot() | stage).run(net, 0.5, example_inputs=X).masks


def broken(data: Data, error: BaseException) -> Callable[[Any, Batch], Tensor]:
    """Changes every setting it can reach, and raises in the second batch."""

    def loss(model: Any, batch: Batch) -> Tensor:
        value = drawing(model, batch)
        if data.at == 1:
            torch.manual_seed(99), python_random.seed(99), np.random.seed(99)
            torch.set_grad_enabled(not torch.is_grad_enabled())
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(2)
            raise error
        return value

    return loss


@cases
@pytest.mark.parametrize("error", [ValueError("no such file"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_loss_that_raises_in_the_second_batch_changes_nothing(
    name: str, training: bool, error: BaseException
) -> None:
    net, data = network(), Data()
    stage = made(name, broken(data, error), data, training=training)
    with untouched(net, X), pytest.raises(type(error)):
        stage.masks(Model.from_module(net), 0.5, example_inputs=X, seed=3)
    raised = type(error) if isinstance(error, KeyboardInterrupt) else StageError
    with torch.no_grad(), untouched(net, X), pytest.raises(raised):
        (fprune.one_shot() | stage).run(net, 0.5, example_inputs=X)


class Scores:
    """Each layer by itself, and a record of what it is shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
        scope = Scope.of(params)
        scores = criterion(scope, [row.layer for row in scope.plan(config).selected])
        self.seen += [digest(scores)]
        return per_layer(criterion, scope, config)


@cases
def test_the_seed_decides_every_bit_of_the_scores(name: str, training: bool) -> None:
    def seen(seed: int) -> list[str]:
        torch.rand(1), python_random.random(), np.random.rand()  # global randomness plays no part
        scores = Scores()
        stage = made(name, drawing, Data(), scores, training=training)
        stage.masks(Model.from_module(network()), 0.5, example_inputs=X, seed=seed)
        assert scores.seen
        return scores.seen

    assert seen(3) == seen(3)
    activations = name in ("apoz", "mean_activation") and not training  # there only the model runs, and draws nothing
    assert (seen(3) == seen(4)) == activations


@cases
def test_memory_does_not_grow_with_the_number_of_batches(name: str, training: bool) -> None:
    data = Data(count=9, watched=(2, 8))
    made(name, drawing, data, training=training).masks(Model.from_module(network()), 0.5, example_inputs=X)
    early, late = data.alive
    assert late <= early, "what earlier batches left is still in memory"
