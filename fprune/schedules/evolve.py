"""Evolutionary search over allocations."""

from collections.abc import Generator, Sequence

import numpy as np
import torch

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal, Report
from fprune.schedules.groups import Floats, Pool, pools, refuse_unreachable
from fprune.schedules.searching import candidate, counted, number, score_of
from fprune.schedules.shares import rescaled, uniform
from fprune.setting import Setting
from fprune.tree import generator

Shares = tuple[Floats, ...]


def _check(
    *,
    population: int = 16,
    generations: int = 10,
    parents: int = 4,
    mutation: float = 0.3,
    magnitude: float = 0.35,
) -> None:
    counted("population", population, 2)
    counted("generations", generations, 1)
    counted("parents", parents, 1)
    number("mutation", mutation, 0, 1, open_low=True)
    number("magnitude", magnitude, 0, 1, open_low=True)


@schedule(setting=True, needs=("score",), check=_check)
def evolve(
    target: Config,
    setting: Setting,
    *,
    population: int = 16,
    generations: int = 10,
    parents: int = 4,
    mutation: float = 0.3,
    magnitude: float = 0.35,
) -> Generator[Goal, Report, None]:
    """Search for the division of a sparsity over layers by evolution.

    The first generation is the even division and random ones. The best `parents` of all allocations tried so far make
    the next: half of the children are a parent of which each share moves with probability `mutation` by U(-m, m),
    `m = magnitude * (1 - generation / generations)`, the other half take each share from one of two parents. All are
    rescaled to the rule's total under the bounds of the layers, as in `annealing`.

    There are `population * generations` rounds. Those of one generation do not look at one another: with `executor=`
    they run at the same time.

    Examples:
        >>> from torch import nn
        >>> target, net = Config([{"total_sparsity": 0.5}]), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
        >>> goals = evolve(population=3).goals(target, setting=Setting.of(net, target))
        >>> len(goals), [rule.sparsity for rule in goals[0].config.rules]
        (3, [0.5, 0.5])

    Args:
        target: the caller's config; filled in by the run.
        setting: the layers of the model; filled in by the run.
        population: allocations in a generation, at least 2.
        generations: how many, at least 1.
        parents: how many of the best live on, at least 1.
        mutation: probability that a share of a mutated child moves, in `(0, 1]`.
        magnitude: how far it moves in the first generation, in `(0, 1]`.

    Returns:
        Goals, each from the original model, each final: `run` returns the best.

    Raises:
        ConfigError: an option is out of range, or the bounds of the layers leave no allocation.
        ScheduleError: a round has no score.

    References:
        Real et al, `Regularized Evolution <https://arxiv.org/abs/1802.01548>`_, 2019;
        Cai et al, `Once for All <https://arxiv.org/abs/1908.09791>`_, 2020
    """
    found, draw = pools(setting), generator(setting.seed, "evolve")
    refuse_unreachable(found)
    even = tuple(rescaled(np.ones(len(pool.groups)), pool) for pool in found)
    children = [even, *(_random(found, draw) for _ in range(population - 1))]
    best: list[tuple[float, Shares]] = []
    for generation in range(1, generations + 1):
        reports: list[Report] = []
        for child in children:
            reports.append((yield candidate(setting, found, child)))  # noqa: PERF401  a yield
        scored = [(score_of(report), child) for report, child in zip(reports, children, strict=True)]
        best = sorted([*best, *scored], key=lambda pair: -pair[0])[:parents]
        size, elite = magnitude * (1 - generation / generations), [child for _, child in best]
        mutants = [_mutant(_one(elite, draw), found, draw, mutation, size) for _ in range(population - population // 2)]
        children = [
            *mutants,
            *(_cross(_one(elite, draw), _one(elite, draw), found, draw) for _ in range(population // 2)),
        ]


def _random(found: Sequence[Pool], draw: torch.Generator) -> Shares:
    return tuple(rescaled(uniform(draw, len(pool.groups)), pool) for pool in found)


def _one(elite: Sequence[Shares], draw: torch.Generator) -> Shares:
    return elite[int(torch.randint(len(elite), (), generator=draw))]


def _mutant(parent: Shares, found: Sequence[Pool], draw: torch.Generator, mutation: float, size: float) -> Shares:
    """Some shares move, one of each pool at least."""

    def moved(shares: Floats, pool: Pool) -> Floats:
        chosen = uniform(draw, len(shares)) < mutation
        chosen[int(torch.randint(len(shares), (), generator=draw))] = True
        step = uniform(draw, len(shares), -size, size)
        return rescaled(np.clip(np.where(chosen, shares + step, shares), 0.0, pool.caps), pool)

    return tuple(moved(shares, pool) for shares, pool in zip(parent, found, strict=True))


def _cross(one: Shares, other: Shares, found: Sequence[Pool], draw: torch.Generator) -> Shares:
    """Each share from one of the two."""

    def joined(a: Floats, b: Floats, pool: Pool) -> Floats:
        return rescaled(np.where(uniform(draw, len(a)) < 0.5, a, b), pool)

    return tuple(joined(a, b, pool) for a, b, pool in zip(one, other, found, strict=True))
