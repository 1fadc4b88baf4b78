"""Simulated annealing over allocations."""

import math
from collections.abc import Generator, Sequence

import numpy as np

from fprune.compose import schedule
from fprune.config import Config
from fprune.errors import ConfigError
from fprune.records import Goal, Report
from fprune.schedules.groups import pools, refuse_unreachable
from fprune.schedules.searching import candidate, number, score_of
from fprune.schedules.shares import perturbed, sorted_start, uniform
from fprune.setting import Setting
from fprune.tree import generator


def chance(drop: float, seen: Sequence[float], heat: float) -> float:
    """The probability to accept a score that is lower by `drop`: `exp(-drop / (spread * heat))`, 1 if it is no lower.

    The spread is the standard deviation of all scores seen, so that the unit of the score does not matter: a loss of
    one standard deviation passes in 37 % of the cases while hot, and in 0.7 % at the end of the defaults.

    Examples:
        >>> chance(0.0, [0.8, 0.8], heat=1.0)
        1.0
        >>> [round(chance(0.1, [0.9, 0.7, 0.9, 0.7], heat), 4) for heat in (1.0, 0.2)]
        [0.3679, 0.0067]

    Args:
        drop: by how much the candidate is worse.
        seen: all scores so far, the candidate's included.
        heat: temperature over first temperature, in `(0, 1]`.

    Returns:
        A probability.
    """
    return 1.0 if drop <= 0 else math.exp(-drop / (float(np.std(seen)) * heat))


def _check(*, start: float = 100, stop: float = 20, cooling: float = 0.9, magnitude: float = 0.35) -> None:
    number("start", start, 0, math.inf, open_low=True)
    number("stop", stop, 0, math.inf, open_low=True)
    number("cooling", cooling, 0, 1, open_low=True)
    number("magnitude", magnitude, 0, 1, open_low=True)
    if cooling == 1:
        raise ConfigError("cooling: with 1 it never ends", hint="a factor below 1, such as 0.9")
    if stop >= start:
        raise ConfigError(
            f"annealing: it starts at {start:g} and stops at {stop:g}, so no move would be tried",
            hint="the temperature falls: start=100, stop=20",
        )


@schedule(setting=True, needs=("score",), check=_check)
def annealing(
    target: Config,
    setting: Setting,
    *,
    start: float = 100,
    stop: float = 20,
    cooling: float = 0.9,
    magnitude: float = 0.35,
) -> Generator[Goal, Report, None]:
    """Search for the division of a sparsity over layers by simulated annealing.

    The search starts from `sorted(U(0, 1))`, larger layers first in line for larger sparsities, rescaled so that the
    mean over the layers, weighted by their size, is the rule's `total_sparsity`. Each round moves every share by
    U(-m, m) with `m = magnitude * T / start`, rescales, and prunes the original model by it. The move is kept if its
    score is no worse, else with probability

    p = exp(-drop / (spread * T / start)), spread = standard deviation of the scores seen so far

    and T falls by the factor `cooling` in every round, kept or not, until it is no more than `stop`: the number of
    rounds is known before, 17 with the defaults. Bounds (`max_sparsity_per_layer`) hold in every round; a layer at its
    bound stays there and the others make up for it, so that no draw has to be repeated.

    Layers whose channels go together (`dependency_aware`) get one sparsity. A rule with `sparsity` is treated as one
    with `total_sparsity`; every rule is searched under its own.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
        >>> setting = Setting.of(net, [{"total_sparsity": 0.5}])
        >>> (goal,) = annealing().goals(Config([{"total_sparsity": 0.5}]), setting=setting)
        >>> sparsities = [rule.sparsity for rule in goal.config.rules]
        >>> round(sum(s * n for s, n in zip(sparsities, (64, 256, 32))) / 352, 9), goal.start
        (0.5, 'origin')

    Args:
        target: the caller's config; filled in by the run.
        setting: the layers of the model; filled in by the run.
        start: first temperature, positive.
        stop: temperature at which the search ends, positive.
        cooling: factor of the temperature from round to round, in `(0, 1)`.
        magnitude: how far a share moves in the first round, in `(0, 1]`.

    Returns:
        Goals, each from the original model, each final: `run` returns the best.

    Raises:
        ConfigError: an option is out of range, or the bounds of the layers leave no allocation.
        ScheduleError: a round has no score.

    References:
        Liu et al, `AutoCompress <https://arxiv.org/abs/1907.03141>`_, 2020
    """
    found, draw = pools(setting), generator(setting.seed, "annealing")
    refuse_unreachable(found)
    shares = tuple(sorted_start(draw, pool) for pool in found)
    score = score_of((yield candidate(setting, found, shares)))
    seen, temperature = [score], float(start)
    while temperature > stop:
        heat = temperature / start
        moved = tuple(perturbed(s, pool, draw, magnitude * heat) for s, pool in zip(shares, found, strict=True))
        new = score_of((yield candidate(setting, found, moved)))
        seen.append(new)
        if float(uniform(draw, 1)[0]) < chance(score - new, seen, heat):
            shares, score = moved, new
        temperature *= cooling
