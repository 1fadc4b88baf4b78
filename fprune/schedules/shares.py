"""Numbers behind an allocation: a sparsity for each group, whose mean weighted by size is the amount asked for."""

from operator import mul

import numpy as np
import torch

from fprune.schedules.groups import Floats, Pool

__all__ = ["perturbed", "rescaled", "sorted_start", "uniform", "whole"]


def uniform(draw: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Floats:
    """Draw numbers from U(low, high)."""
    return low + (high - low) * torch.rand(count, generator=draw, dtype=torch.float64).numpy()


def rescaled(raw: Floats, pool: Pool) -> Floats:
    """Scale numbers to an allocation: `s = clip(c * r, low, cap)`, with the c for which `sum(n * s)` is what has to go.

    A group at its bound stays there and the others make up for it, so that one pass finds an allocation whenever the
    bounds allow any. The lower bound is what is gone already. Numbers that are zero are taken for small ones, so that
    they can grow when all others are full. As c grows the sum does, in straight lines between the points where a group
    leaves its lower bound or meets its upper one; c lies on one of them.

    Args:
        raw: a number for each group, not negative.
        pool: sizes, bounds and the total; reachable.

    Returns:
        A sparsity for each group, in `[low, cap]`.
    """
    if not len(raw):
        return raw
    sizes, low, high, raw = pool.sizes, pool.least / pool.units, pool.caps, np.maximum(raw, 1e-9)
    points = np.sort(np.concatenate([low / raw, high / raw]))
    sums = np.clip(points[:, None] * raw, low, high) @ sizes
    after = int(np.searchsorted(sums, pool.need))
    if after in (0, len(points)):
        return low + 0.0 if after == 0 else high + 0.0
    start, end = points[after - 1], points[after]
    factor = start + (end - start) * (pool.need - sums[after - 1]) / (sums[after] - sums[after - 1])
    return np.clip(factor * raw, low, high)


def whole(shares: Floats, pool: Pool) -> Floats:
    """Move an allocation to whole units, so that rounding each layer down loses nothing of the total.

    The groups with the largest remainders get one unit more while the total allows; what no unit fits in stays a
    fraction of one unit, so that the weighted mean is the total still. For single weights, `floor(s * n)` over the
    groups then sums to `floor(total * sum(n))`, exactly.

    Args:
        shares: a sparsity for each group.
        pool: the groups.

    Returns:
        A sparsity for each group, in `[low, cap]`.
    """
    each, most = (pool.sizes / pool.units).tolist(), pool.most.tolist()
    exact = shares * pool.units
    count = np.minimum(np.floor(exact + 1e-9).astype(np.int64), pool.most).tolist()
    left = pool.need - sum(map(mul, count, each))
    nearest = np.argsort(count - exact, kind="stable").tolist()
    largest = np.argsort(-pool.sizes / pool.units, kind="stable").tolist()
    for at, limit in (*((at, 1) for at in nearest), *((at, most[at]) for at in largest)):
        more = min(limit, most[at] - count[at], int((left * (1 + 1e-12) + 1e-9) // each[at]))
        if more > 0:
            count[at] += more
            left -= more * each[at]
    found = np.array(count, np.float64) / pool.units
    room = np.clip(np.minimum(pool.caps - found, (1 - 1e-6) / pool.units), 0.0, None) * pool.sizes
    for at in largest:
        part = min(max(left, 0.0), float(room[at]))
        found[at] += part / pool.sizes[at]
        left -= part
    return found


def sorted_start(draw: torch.Generator, pool: Pool) -> Floats:
    """A random allocation in which larger groups lose more: `sorted(U(0, 1))`, by size, rescaled."""
    raw = np.empty(len(pool.groups))
    raw[np.argsort(pool.sizes, kind="stable")] = np.sort(uniform(draw, len(raw)))
    return rescaled(raw, pool)


def perturbed(shares: Floats, pool: Pool, draw: torch.Generator, magnitude: float) -> Floats:
    """An allocation near another: every share moves by U(-magnitude, magnitude), then all are rescaled."""
    moved = shares + uniform(draw, len(shares), -magnitude, magnitude)
    return rescaled(np.clip(moved, 0.0, pool.caps), pool)
