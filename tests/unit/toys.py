"""Small pieces to build pipelines from: a network with integer weights, two pruners, a schedule, user functions."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune.compose import Stage, pruner, schedule, stage
from fprune.config import Config
from fprune.masks import Masks
from fprune.records import Goal, TaskResult
from fprune.scope import Scope
from fprune.stages import evaluate, finetune, nested, reset_weight, tap


def net(seed: int = 0) -> nn.Sequential:
    """Integer weights, so that sums are exact and ties are frequent."""
    made = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in made.parameters():
            param.copy_(torch.randint(-4, 5, param.shape, generator=generator))
    return made


X = torch.arange(30.0).reshape(5, 6).remainder(7) - 3


def lowest(scores: Tensor, k: int) -> Tensor:
    """False for the k lowest, ties by index."""
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(stable=True)[:k]] = False
    return kept


def _selected(params: Any, config: Config) -> Iterator[tuple[Any, Tensor, float]]:
    for row in Scope.of(params).plan(config).selected:
        yield row.layer, params[row.layer.weight], row.sparsity or 0.0


@pruner
def smallest(params: Any, config: Config) -> Masks:
    """The smallest elements of each layer."""
    found = {}
    for layer, weight, sparsity in _selected(params, config):
        scores = torch.where(Scope.of(params).alive(layer), weight.abs(), -1.0)
        found[layer.weight] = lowest(scores, int(sparsity * weight.numel() + 1e-9)).reshape(weight.shape)
    return Masks(found)


@pruner
def rows(params: Any, config: Config) -> Masks:
    """The output rows with the smallest sum, counted on the original model."""
    scope, found = Scope.of(params), {}
    for layer, weight, sparsity in _selected(scope, config):
        k = int(sparsity * scope.original_units(layer) + 1e-9) - scope.gone_units(layer)
        kept = lowest(torch.where(scope.alive_units(layer), weight.abs().sum(1), -1.0), k)
        found |= {layer.weight: kept[:, None], layer.bias: kept}
    return Masks(found)


@schedule
def steps(target: Config, *fractions: float, start: Any = "previous") -> Iterator[Goal]:
    """Fractions of the target."""
    for fraction in fractions:
        yield Goal(target.scaled(fraction), start=start, final=fraction == 1)


@schedule(needs=("score",))
def until_bad(target: Config, limit: float) -> Iterator[Goal]:
    """Tenths of the target while the score is above a limit."""
    for tenth in range(1, 11):
        report = yield Goal(target.scaled(tenth / 10), final=tenth == 10)  # type: ignore[misc]
        if report.score < limit:
            return


@stage
def remember(result: TaskResult, note: str) -> TaskResult:
    """Leave a note."""
    return result.replace(notes=(*result.notes, note))


def train(module: nn.Module) -> dict[str, float]:
    """A step with randomness, momentum and normalisation statistics."""
    sgd = torch.optim.SGD(module.parameters(), lr=2**-12, momentum=0.9)
    for _ in range(2):
        sgd.zero_grad()
        loss = (module(X + torch.randn_like(X)) - torch.rand(5, 4)).square().mean()
        loss.backward()
        sgd.step()
    return {"loss": loss.item()}


def score(module: nn.Module) -> float:
    """Higher is better: less output, here."""
    return -float(module(X).abs().mean())


def look(result: TaskResult) -> None:
    """Nothing."""


atoms: st.SearchStrategy[Stage] = st.sampled_from(
    [
        Stage(),
        smallest(),
        rows(),
        finetune(train),
        evaluate(score),
        reset_weight(),
        tap(look),
        remember("a"),
        nested(steps(0.5, 1.0) | smallest()),
    ]
)
words = st.lists(atoms, max_size=3).map(lambda found: sum_of(found))
schedules = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=3).map(
    lambda fractions: steps(*sorted(fractions))
)
pipelines = st.builds(lambda s, a, p, b: s | a | p | b, schedules, words, st.sampled_from([smallest(), rows()]), words)


def sum_of(stages: list[Stage]) -> Stage:
    """The stages joined by `|`."""
    joined = Stage()
    for one in stages:
        joined = joined | one
    return joined


class Written(nn.Module):
    """A forward pass given as a function of the module and the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.written = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.written(self, *args, **kwargs)
