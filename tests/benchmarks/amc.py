"""Searches on a problem of four layers whose best allocation is known by enumeration.

    python tests/benchmarks/amc.py [evaluations] [seeds]

Every search gets the same number of evaluations of the same score. The table shows the best score found, its distance
to the best of a grid, and the score of the last tenth of the rounds, which tells whether the search has learned.
"""

import sys
import time
from collections.abc import Generator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fprune import Config, Goal, Report, amc, annealing, evolve
from fprune.schedules.groups import pools
from fprune.schedules.searching import candidate
from fprune.schedules.shares import rescaled, uniform
from fprune.setting import Setting
from fprune.tree import generator

TOTAL = 0.6
SIZES = ((16, 32), (32, 64), (64, 64), (64, 16))
CONFIG = Config([{"total_sparsity": TOTAL, "max_sparsity_per_layer": 0.9}])


def net() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in SIZES))


def score(s: tuple[float, ...]) -> float:
    """An accuracy that falls steeply beyond a point of each layer, and more when neighbours are both sparse."""
    alone = np.prod(
        [1 - a / (1 + np.exp(-12 * (x - b))) for x, a, b in zip(s, (0.5, 0.3, 0.6, 0.2), POINTS, strict=True)]
    )
    together = 0.35 * s[0] * s[1] + 0.25 * (s[1] - 0.2) ** 2 + 0.3 * s[2] * s[3] ** 2
    return float(alone - 0.5 * together)


POINTS = (0.45, 0.75, 0.7, 0.85)


def best_of_grid(step: float = 0.01) -> tuple[float, tuple[float, ...]]:
    """The best allocation of all whose first three shares are multiples of a step; the fourth meets the total."""
    sizes = np.array([a * b for a, b in SIZES], float)
    found = (-1.0, (0.0,) * 4)
    for head in product(np.arange(0, 0.9 + 1e-9, step), repeat=3):
        last = (TOTAL * sizes.sum() - float(sizes[:3] @ np.array(head))) / sizes[3]
        if 0 <= last <= 0.9:
            found = max(found, (score((*map(float, head), float(last))), (*map(float, head), float(last))))
    return found


def random_search(setting: Setting, evaluations: int) -> Generator[Goal, Report, None]:
    """Allocations rescaled from U(0, 1), every one anew."""
    found, draw = pools(setting), generator(setting.seed, "random")
    for _ in range(evaluations):
        yield candidate(setting, found, tuple(rescaled(uniform(draw, 4), pool) for pool in found))


def scores(goals: Generator[Goal, Any, None]) -> list[float]:
    """Play a schedule to its end."""
    out: list[float] = []
    try:
        goal = next(goals)
        while True:
            out.append(score(tuple(rule.amount for rule in goal.config.rules)))
            goal = goals.send(Report(len(out) - 1, goal, out[-1]))
    except StopIteration:
        return out


def searches(setting: Setting, n: int) -> dict[str, Generator[Goal, Any, None]]:
    generations = max(n // 16, 1)
    cooling = 0.2 ** (1 / (n - 1))
    return {
        "random": random_search(setting, n),
        "random, bounded as amc": amc.fn(CONFIG, setting, n, warmup=n),
        "amc": amc.fn(CONFIG, setting, n),
        "annealing": annealing.fn(CONFIG, setting, cooling=cooling),
        "evolve": evolve.fn(CONFIG, setting, population=16, generations=generations),
    }


def main(evaluations: int = 300, seeds: int = 5) -> None:
    torch.set_num_threads(1)
    best, where = best_of_grid(0.02)
    print(
        f"best of the grid {best:.4f} at {tuple(round(x, 2) for x in where)}; {evaluations} evaluations, {seeds} seeds"
    )
    print(f"{'search':24} {'best':>8} {'gap':>8} {'worst':>8} {'last tenth':>11} {'s':>6}")
    plan = Setting.of(net(), CONFIG).plan
    for name in searches(Setting(plan), evaluations):
        begun = time.perf_counter()
        runs = [scores(searches(Setting(plan, seed), evaluations)[name]) for seed in range(seeds)]
        took = (time.perf_counter() - begun) / seeds
        tops = [max(run) for run in runs]
        late = np.mean([np.mean(run[-len(run) // 10 :]) for run in runs])
        print(f"{name:24} {np.mean(tops):8.4f} {best - np.mean(tops):8.4f} {min(tops):8.4f} {late:11.4f} {took:6.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
