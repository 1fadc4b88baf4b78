"""Every public pruner, schedule and stage, called from its signature: a new one joins by being public.

An option is given by its name, from `SMALL` when it makes the piece quick, from `FUNCTIONS` when it is a function of
the user's. An option that has no default and no entry here is what `test_every_option_is_known` reports.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import fprune
from fprune import Config, Goal, Report, Schedule, TaskResult
from fprune.compose import Factory, Pipeline
from tests.laws.tables import BATCHES, descent, forward, loss
from tests.project.test_public import exported

FACTORIES: Mapping[str, Factory[..., Any]] = {
    name: getattr(fprune, name) for name in exported() if isinstance(getattr(fprune, name), Factory)
}


def train(module: nn.Module) -> None:
    """A step of momentum, with dropout and a norm in training mode."""
    module.train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    for batch in BATCHES:
        optimizer.zero_grad()
        loss(module, batch).backward()
        optimizer.step()


def score(module: nn.Module) -> float:
    """A number that every weight has a part in."""
    return float(sum(value.detach().double().abs().sum() for value in module.parameters()))


def look(result: TaskResult) -> None:
    """Looks, and says nothing."""


def halves(target: Config) -> tuple[Goal, ...]:
    """The goals that are left."""
    return Goal(target.scaled(0.5)), Goal(target, final=True)


def following(left: tuple[Goal, ...], report: Report | None) -> tuple[Goal, tuple[Goal, ...]] | None:
    """The first of the goals that are left, and the others."""
    return (left[0], left[1:]) if left else None


SMALL: Mapping[str, Any] = {
    "rounds": 2,
    "iterations": 2,
    "epochs": 1,
    "probes": 1,
    "warm_up": 0,
    "episodes": 3,
    "warmup": 1,
    "population": 3,
    "generations": 2,
    "parents": 2,
    "steps": 2,
    "ratios": (0.25, 0.5),
    "stop": 60,
    "factors": "learned",
    "pipeline": fprune.linear(1) | fprune.l1(),
}
"""Options that keep a piece quick, or without which it cannot be made."""
FUNCTIONS: Mapping[str, Any] = {
    "loss": loss,
    "forward": forward,
    "batches": BATCHES,
    "fn": {"finetune": train, "evaluate": score, "tap": look},
    "init": halves,
    "next": following,
    "optimizer": descent,
    "allocation": fprune.per_layer,
}
"""What a user writes: functions, by the name of the option; and batches, which are code as well."""


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a piece."""
    return inspect.signature(FACTORIES[name]).parameters


def functions(name: str) -> dict[str, Any]:
    """The user's functions that a piece takes, by option."""
    told = {option: FUNCTIONS[option] for option in options(name) if option in FUNCTIONS}
    return {option: given[name] if isinstance(given, dict) else given for option, given in told.items()}


def made(name: str, **given: Any) -> Any:
    """A piece, with some options of the caller's."""
    known = {**SMALL, "activation": "relu"}
    small = {option: known[option] for option in options(name) if option in known}
    return FACTORIES[name](**{**small, **functions(name), **given})


def pipeline(name: str, **given: Any) -> Pipeline:
    """A short pipeline with a piece in it."""
    piece = made(name, **given)
    if isinstance(piece, Schedule):
        return piece | fprune.l1() | fprune.evaluate(score)
    if FACTORIES[name].lifts == "pruner":
        return fprune.linear(1) | piece
    return fprune.linear(1) | fprune.l1(fprune.dependency_aware) | piece


def unknown() -> list[str]:
    """Options without a default that nothing here gives."""
    return [
        f"{name}({option})"
        for name in FACTORIES
        for option, parameter in options(name).items()
        if parameter.default is parameter.empty and option not in {**SMALL, **FUNCTIONS}
    ]


def network() -> nn.Module:
    """Flags that differ, a frozen parameter, norm statistics, dropout, an in-place activation, a hook, a gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )
    net.train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    net[6].weight.grad = torch.ones_like(net[6].weight)
    net[6].register_forward_hook(_seen)
    return net


def _seen(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
    """A hook that looks."""


X = torch.ones(1, 4, 8, 8)
KEPT = {"6.weight": torch.ones(4, 6, dtype=torch.bool)}
CONFIG = [{"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_names": ["6"], "exclude": True}]
