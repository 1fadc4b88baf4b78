"""Scores and selections re-derived with explicit loops from the papers' formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fprune.allocate import balanced, n_m, per_layer
from fprune.config import Config
from fprune.criteria import channel_norm, geometric_distance, magnitude
from fprune.layers import layers_of
from fprune.pruners import fpgm


def integers(seed: int, shape: tuple[int, ...], largest: int) -> Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def distances(weight: Tensor) -> list[float]:
    """sum over k of ||w_j - w_k||_2, one pair at a time, in double precision."""
    rows = weight.flatten(1).tolist()
    return [math.fsum(math.dist(one, other) for other in rows) for one in rows]


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 20), st.sampled_from([1, 2, 50]))
def test_geometric_distance(seed: int, units: int, rest: int, largest: int) -> None:
    weight = integers(seed, (units, rest), largest)
    found = geometric_distance()({"w": weight}, layers_of({"w": weight}))["w"]
    assert found.tolist() == pytest.approx(distances(weight), rel=1e-6, abs=1e-6)


def test_geometric_distance_of_ordinary_filters() -> None:
    weight = torch.randn(24, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    found = geometric_distance()({"w": weight}, layers_of({"w": weight}))["w"]
    assert found.tolist() == pytest.approx(distances(weight), rel=1e-7)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_fpgm_removes_the_filters_with_the_smallest_sums(sparsity: float) -> None:
    weight = torch.randn(20, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    sums = distances(weight)
    lowest = sorted(range(20), key=lambda j: (sums[j], j))[: int(sparsity * 20 + 1e-9)]
    kept = fpgm().masks({"w": weight}, sparsity)["w"].flatten().tolist()
    assert [j for j in range(20) if not kept[j]] == sorted(lowest)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]))
def test_channel_norms(seed: int, p: int) -> None:
    weight = integers(seed, (5, 3, 2), 9)
    expected = [math.fsum(abs(v) ** p for v in row) ** (1 / p) for row in weight.flatten(1).tolist()]
    found = channel_norm(p)({"w": weight}, layers_of({"w": weight}))["w"]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@given(
    st.integers(0, 10**6),
    st.sampled_from([((4, 6), (2, 3)), ((4, 6), (1, 6)), ((6, 4), (3, 1)), ((2, 4, 3, 3), (2, 3, 3)), ((8, 4), (2,))]),
    st.sampled_from([0.0, 0.25, 0.34, 0.5, 0.75]),
    st.sampled_from([0, 2, 40]),
)
def test_balanced_by_walking_over_the_grid(seed: int, shapes, sparsity: float, largest: int) -> None:
    shape, block = shapes
    weight = integers(seed, shape, largest)
    sizes = (1,) * (len(shape) - len(block)) + block
    count = int(sparsity * math.prod(sizes) + 1e-9)
    expected = torch.ones(shape, dtype=torch.bool)
    for corner in itertools.product(*(range(0, length, size) for length, size in zip(shape, sizes, strict=True))):
        cell = list(itertools.product(*(range(c, c + size) for c, size in zip(corner, sizes, strict=True))))
        for place in sorted(cell, key=lambda place: (abs(weight[place].item()), cell.index(place)))[:count]:
            expected[place] = False
    masks = balanced(block)(magnitude(), {"w": weight}, Config([{"op_names": ["w"], "sparsity": sparsity}]))
    assert torch.equal(masks["w"], expected)


@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8)]), st.sampled_from([0, 2, 40]))
def test_n_m_by_trying_every_subset(seed: int, pattern: tuple[int, int], largest: int) -> None:
    n, m = pattern
    weight = integers(seed, (2, 2 * m, 2), largest)
    kept = n_m(n, m)(magnitude(), {"w": weight}, Config(1 - n / m))["w"]
    for out, group, k in itertools.product(range(2), range(2), range(2)):
        values = weight[out, group * m : (group + 1) * m, k].abs().tolist()
        # Of all subsets of n that keep the most, ties remove lower indices first: the last in lexicographic order.
        best = max(itertools.combinations(range(m), n), key=lambda subset: (sum(values[i] for i in subset), subset))
        assert kept[out, group * m : (group + 1) * m, k].nonzero().flatten().tolist() == list(best)


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.9]), st.sampled_from([1, 30]))
def test_per_layer_by_sorting(seed: int, size: int, sparsity: float, largest: int) -> None:
    weight = integers(seed, (size, 2), largest)
    values = weight.abs().flatten().tolist()
    lowest = sorted(range(2 * size), key=lambda i: (values[i], i))[: int(sparsity * 2 * size + 1e-9)]
    kept = per_layer(magnitude(), {"w": weight}, Config(sparsity))["w"].flatten().tolist()
    assert [i for i in range(2 * size) if not kept[i]] == sorted(lowest)
