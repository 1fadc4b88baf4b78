"""What generated pipelines do to a network besides pruning: exact training, random training, a score, a look."""

from typing import Any

import torch
from torch import Tensor, nn

from fprune.records import TaskResult


class SignSGD(torch.optim.Optimizer):
    """Steps of one unit against the gradient's sign: training that keeps integers integers.

    Examples:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = net.weight.fill_(3.0)
        >>> net(torch.tensor([[1.0, -1.0]])).sum().backward()
        >>> SignSGD(net.parameters()).step()
        >>> net.weight.tolist()
        [[2.0, 4.0]]

    Args:
        params: the parameters to train.
    """

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one step; parameters without a gradient stay."""
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    value.sub_(value.grad.sign())


def example(module: nn.Module) -> Tensor:
    """Integer inputs that fit a generated network.

    Examples:
        >>> example(nn.Sequential(nn.Linear(3, 2))).shape
        torch.Size([4, 3])
    """
    first = next(m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    shape = (4, first.in_features) if isinstance(first, nn.Linear) else (4, first.in_channels, 4, 4)
    values = torch.arange(torch.Size(shape).numel()).remainder(5).sub(2)
    return values.to(first.weight.dtype).reshape(shape)


def step(module: nn.Module) -> None:
    """Train with two exact steps, and leave the statistics of norms alone.

    Examples:
        >>> from fprune.strategies import filled
        >>> net = filled(nn.Sequential(nn.Linear(3, 2)))
        >>> step(net)
        >>> net[0].weight.sum().item() % 1
        0.0
    """
    module.eval()
    optimizer = SignSGD(module.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        module(example(module)).sum().backward()
        optimizer.step()


def shuffle(module: nn.Module) -> dict[str, float]:
    """Train with draws from the global random generator, as any real training does, and report one.

    Examples:
        >>> from fprune import TaskResult, finetune
        >>> net = nn.Linear(3, 2)
        >>> drawn = [finetune(shuffle)(TaskResult.start(net, 0.5, seed=1)).metrics["drawn"] for _ in range(2)]
        >>> drawn[0] == drawn[1]
        True
    """
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optimizer.zero_grad()
    pulls = [(value * torch.randint(-1, 2, value.shape).to(value)).sum() for value in module.parameters()]
    torch.stack(pulls).sum().backward()
    optimizer.step()
    return {"drawn": float(torch.rand(()))}


def score(module: nn.Module) -> float:
    """Score what a generated network computes.

    Examples:
        >>> from fprune.strategies import filled
        >>> score(filled(nn.Sequential(nn.Linear(3, 2))))
        -3.75
    """
    with torch.no_grad():
        return -float(module(example(module)).abs().mean())


def look(result: TaskResult) -> None:
    """Look at a result and say nothing.

    Examples:
        >>> look(TaskResult.start(nn.Linear(3, 2), 0.5))
    """
