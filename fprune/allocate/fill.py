"""Counts for layers whose shares follow a curve: exact in total, bounded, and never fewer for a larger total."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from fprune.allocate.pool import Pool
from fprune.allocate.selection import lowest

__all__ = ["Curve", "along", "filled"]

Curve = Callable[[float], Sequence[float]]
"""A level -> the fraction to remove of each layer, none of which falls as the level rises."""


def filled(
    sizes: Sequence[int], bounds: Sequence[tuple[int, int]], total: int, curve: Curve, span: tuple[float, float]
) -> list[int]:
    """Raise the level of a curve until the counts add up to a total.

    `count = round(fraction * size)`, within the bounds of its layer. Where several counts rise at the same level, the
    first layers rise first. So the counts for one more are the same but for one.

    Examples:
        >>> filled([10, 10], [(0, 9), (0, 4)], 9, lambda level: (level, level), (0.0, 1.0))
        [5, 4]
        >>> filled([10, 10], [(0, 9), (0, 4)], 11, lambda level: (level, level), (0.0, 1.0))
        [7, 4]

    Args:
        sizes: of the layers.
        bounds: the least and the most that goes of each layer.
        total: what the counts add up to, within what the bounds allow.
        curve: fractions by level.
        span: a level at which nothing is to go, and one at which everything is.

    Returns:
        A count for each layer.
    """

    def counts(level: float) -> list[int]:
        rounded = (math.floor(part * size + 0.5) for part, size in zip(curve(level), sizes, strict=True))
        return [min(max(count, low), high) for count, (low, high) in zip(rounded, bounds, strict=True)]

    low, high = span
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if sum(counts(middle)) <= total else (low, middle)
    out, above = counts(low), counts(high)
    rest = total - sum(out)
    for n in range(len(out)):
        more = min(above[n] - out[n], max(rest, 0))
        out[n] += more
        rest -= more
    return out


def along(pool: Pool, count: int, curve: Curve, span: tuple[float, float]) -> dict[str, Tensor]:
    """Mark the lowest scores of each layer, as many as a curve over the original layers gives it.

    Args:
        pool: the layers.
        count: how many of the present ones go.
        curve: the fraction to remove of each layer, in the pool's order.
        span: as in `filled`.

    Returns:
        Weight name -> true where one goes.
    """
    # Where a curve leaves a choice it goes by name, as equal scores do, not by the order of a dict.
    order = sorted(range(len(pool.shares)), key=lambda i: pool.shares[i].name)
    named = [pool.shares[i] for i in order]
    sizes = [share.total for share in named]
    bounds = [(share.gone + share.dead, share.gone + pool.limits[share.name]) for share in named]

    def in_order(level: float) -> list[float]:
        parts = curve(level)
        return [parts[i] for i in order]

    counts = filled(sizes, bounds, count + pool.gone, in_order, span)
    return {
        share.name: lowest({share.name: share.scores}, share.present(removed))[share.name]
        for share, removed in zip(named, counts, strict=True)
    }
