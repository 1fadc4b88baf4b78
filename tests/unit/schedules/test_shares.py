"""Allocations have the total, keep the bounds, and lose nothing to rounding."""

import math

import attrs
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fprune.schedules.groups import Pool, pools
from fprune.schedules.shares import perturbed, rescaled, sorted_start, uniform, whole
from tests.unit.schedules.playing import setting_of

sizes = st.lists(st.integers(2, 5000), min_size=1, max_size=12)
seeds = st.integers(0, 2**16)


def pool_of(counts: list[int], total: float, caps: list[float]) -> Pool:
    bounds = {f"l{i}": cap for i, cap in enumerate(caps[: len(counts)])}
    config = [{"total_sparsity": total, "max_sparsity_per_layer": bounds}]
    (pool,) = pools(setting_of(counts, config))
    return pool


def reachable(pool: Pool) -> bool:
    return pool.total * pool.weights <= float(pool.sizes @ pool.caps)


caps = st.lists(st.floats(0.05, 1.0), min_size=12, max_size=12)
totals = st.floats(0, 0.95)


def mean(shares: np.ndarray, pool: Pool) -> float:
    return float(shares @ pool.sizes) / pool.weights


@given(sizes, totals, caps, st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_rescaled_has_the_total_within_the_bounds(
    counts: list[int], total: float, bounds: list[float], raw: list[float]
) -> None:
    pool = pool_of(counts, total, bounds)
    assume(reachable(pool))
    shares = rescaled(np.array(raw[: len(counts)]), pool)
    assert abs(mean(shares, pool) - total) < 1e-9
    assert (shares >= 0).all()
    assert (shares <= pool.caps + 1e-12).all()


def test_rescaled_is_proportional_until_a_bound() -> None:
    pool = pool_of([10, 10, 20], 0.5, [1.0] * 12)
    assert rescaled(np.array([1.0, 2.0, 1.0]), pool) == pytest.approx([0.4, 0.8, 0.4])
    tight = pool_of([10, 10, 20], 0.5, [1.0, 0.6, 1.0])
    assert rescaled(np.array([1.0, 2.0, 1.0]), tight) == pytest.approx([14 / 30, 0.6, 14 / 30])


def test_zeros_grow_when_everything_else_is_full() -> None:
    pool = pool_of([10, 10], 0.5, [0.2, 1.0])
    assert rescaled(np.array([1.0, 0.0]), pool) == pytest.approx([0.2, 0.8])


@given(sizes, totals, caps, seeds)
def test_whole_removes_exactly_what_the_total_says(
    counts: list[int], total: float, bounds: list[float], seed: int
) -> None:
    """Rounding every layer down takes nothing from the count, unless the bounds leave no room for it."""
    pool = pool_of(counts, total, bounds)
    assume(reachable(pool))
    draw = torch.Generator().manual_seed(seed)
    shares = whole(rescaled(uniform(draw, len(counts)), pool), pool)
    assert abs(mean(shares, pool) - total) < 1e-9
    assert (shares <= pool.caps + 1e-12).all() and (shares >= 0).all()
    removed = sum(math.floor(s * n + 1e-9) for s, n in zip(shares.tolist(), counts, strict=True))
    assert removed == min(math.floor(total * sum(counts) + 1e-9), int(pool.most.sum()))


@given(sizes, totals, seeds)
def test_the_start_gives_larger_layers_more(counts: list[int], total: float, seed: int) -> None:
    pool = pool_of(counts, total, [1.0] * 12)
    assume(reachable(pool))
    shares = sorted_start(torch.Generator().manual_seed(seed), pool)
    by_size = shares[np.argsort(pool.sizes, kind="stable")]
    full = pool.caps[np.argsort(pool.sizes, kind="stable")]
    # A layer that is full has the bound of its own size, (n - 1) / n.
    assert all(a <= b + 1e-12 or a >= cap - 1e-12 for a, b, cap in zip(by_size, by_size[1:], full, strict=False))


@given(sizes, totals, caps, seeds, st.floats(0.001, 1))
def test_perturbed_stays_legal(counts: list[int], total: float, bounds: list[float], seed: int, size: float) -> None:
    pool, draw = pool_of(counts, total, bounds), torch.Generator().manual_seed(seed)
    assume(reachable(pool))
    shares = sorted_start(draw, pool)
    moved = perturbed(shares, pool, draw, size)
    assert abs(mean(moved, pool) - total) < 1e-9
    assert (moved >= 0).all() and (moved <= pool.caps + 1e-12).all()


def test_a_smaller_magnitude_moves_less() -> None:
    pool = pool_of([100] * 12, 0.5, [1.0] * 12)
    start = np.full(12, 0.5)

    def far(size: float) -> float:
        draw = torch.Generator().manual_seed(3)
        return float(np.abs(perturbed(start, pool, draw, size) - start).max())

    assert 0 < far(0.01) <= 0.03 < far(0.35)


@given(sizes, totals, st.lists(st.floats(0, 0.9), min_size=12, max_size=12), seeds)
def test_what_is_gone_stays_gone_and_counts(counts: list[int], total: float, gone: list[float], seed: int) -> None:
    setting = setting_of(counts, [{"total_sparsity": total}])
    removed = {f"l{i}": int(part * n) / n for i, (n, part) in enumerate(zip(counts, gone, strict=False))}
    (pool,) = pools(attrs.evolve(setting, removed=removed))
    assume(reachable(pool))
    assert pool.least.tolist() == [int(part * n) for n, part in zip(counts, gone, strict=False)]
    shares = whole(rescaled(uniform(torch.Generator().manual_seed(seed), len(counts)), pool), pool)
    already = sum(removed[f"l{i}"] * n for i, n in enumerate(counts))
    assert shares @ pool.sizes == pytest.approx(max(total * sum(counts), already), abs=1e-6)
    assert (shares >= np.array(list(removed.values())) - 1e-12).all()
