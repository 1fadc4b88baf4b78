"""Whole algorithms: pipelines made of the parts that are there, to run as they are or to take apart."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from fprune.allocate import Allocation, dependency_aware
from fprune.compose import Pipeline, Schedule
from fprune.pruners import admm, l2, level
from fprune.schedules import annealing, lottery
from fprune.stages import evaluate, finetune, nested, speed_up

__all__ = ["auto_compress"]


def auto_compress(
    rounds: int,
    train: Callable[[nn.Module], Any],
    score: Callable[[nn.Module], Any],
    allocation: Allocation = dependency_aware,
    *,
    search: Schedule | None = None,
    granularity: Literal["element", "channel"] = "channel",
    iterations: int = 10,
    rho: float = 0.1,
) -> Pipeline:
    r"""AutoCompress: each round of a lottery schedule searches for an allocation, prunes by ADMM, shrinks and trains.

    lottery(rounds) | nested(search | trial | evaluate(score), keep="config") | admm(...) | speed_up()
    | finetune(train) | evaluate(score)

    The search tries its allocations with a pruner that does not train, `l2(allocation)` for channels and
    `level(allocation)` for single weights. It begins where the round does: what earlier rounds removed stays removed
    and counts. A pipeline is a value, so that another order of the parts, or other parts, are written down as quickly.

    Examples:
        >>> def train(module): ...
        >>> def accuracy(module):
        ...     return 0.0
        >>> print(repr(auto_compress(3, train, accuracy)).replace(" | ", "\n| "))
        lottery(3)
        | nested(annealing()
        | l2(dependency_aware)
        | evaluate(accuracy), keep='config')
        | admm(allocation=dependency_aware, granularity='channel', iterations=10, rho=0.1, train=train)
        | speed_up()
        | finetune(train)
        | evaluate(accuracy)

    Args:
        rounds: of the lottery schedule, at least 1.
        train: trains a module in place, as `finetune` takes it; called `iterations + 1` times a round.
        score: a number for a module, higher is better, as `evaluate` takes it.
        allocation: what lives and dies together; one that goes by layer, since the search sets each layer's sparsity.
        search: how a round's sparsity is divided over the layers, `annealing()` by default; `evolve(...)` or
            `amc(...)` fit too.
        granularity: `"channel"` or `"element"`.
        iterations: of ADMM, in each round.
        rho: weight of its penalty, positive.

    Returns:
        A pipeline, for a config with `total_sparsity`; it needs `example_inputs`.

    Raises:
        ConfigError: an option is out of range.

    References:
        Liu et al, `AutoCompress <https://arxiv.org/abs/1907.03141>`_, 2020
    """
    trial = l2(allocation) if granularity == "channel" else level(allocation)
    inner = (annealing() if search is None else search) | trial | evaluate(score)
    prune = admm(allocation=allocation, granularity=granularity, iterations=iterations, rho=rho, train=train)
    return lottery(rounds) | nested(inner, keep="config") | prune | speed_up() | finetune(train) | evaluate(score)
