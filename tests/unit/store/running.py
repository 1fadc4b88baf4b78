"""Small runs in folders, for what reads them without a network."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fprune import TaskResult, agp, evaluate, l1, level, run_folder
from fprune.stages import finetune

X = torch.arange(24.0).reshape(6, 4).remainder(5) - 2


def network(seed: int = 0) -> nn.Sequential:
    """Weights that never tie, the same for a seed."""
    made = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in made.parameters():
            param.copy_(torch.randn(param.shape, generator=drawn))
    return made


def train(module: nn.Module) -> None:
    sgd = torch.optim.SGD(module.parameters(), lr=0.05)
    module(X).square().mean().backward()
    sgd.step()


def score(module: nn.Module) -> float:
    return -float(module(X).square().mean())


def run_in(
    folder: Path, *, rounds: int = 3, sparsity: float = 0.5, seed: int = 0, keep: Any = "all", filters: bool = False
) -> TaskResult:
    """AGP, training and a score, committed round by round."""
    store = run_folder(folder, keep=keep)
    pruner = l1() if filters else level()
    net = network(seed)
    return (agp(rounds) | pruner | finetune(train) | evaluate(score)).run(net, sparsity, store=store)
