"""Allocations against their papers' formulas, written anew: as loops, and for layers small enough to look at each."""

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from fprune import (
    Config,
    Model,
    block,
    dependency_aware,
    erk,
    globally,
    isomorphic,
    l1,
    lamp,
    level,
    owl,
    uniform_plus,
)
from fprune.allocate.fill import filled
from fprune.errors import ConfigError

SHAPES = {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (40, 16), "d": (10, 40)}


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def gone(masks: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int((~masks[name]).sum()) for name in params}


def erk_densities(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """The published procedure: layers that would be denser than dense are set dense, eps is solved for the others."""
    dense: set[str] = set()
    while True:
        left = density * sum(map(math.prod, shapes.values())) - sum(math.prod(shapes[name]) for name in dense)
        raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items() if name not in dense}
        eps = left / sum(raw[name] * math.prod(shapes[name]) for name in raw)
        over = {name for name in raw if eps * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}
        dense |= {max(over, key=raw.__getitem__)}


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_erk_gives_the_published_densities(sparsity: float) -> None:
    params = weights(SHAPES)
    counts = gone(level(erk).masks(params, Config(sparsity)), params)
    assert sum(counts.values()) == math.floor(sparsity * sum(map(math.prod, SHAPES.values())) + 1e-9)
    for name, density in erk_densities(SHAPES, 1 - sparsity).items():
        assert abs(counts[name] - (1 - density) * math.prod(SHAPES[name])) <= 1, name


def test_erk_counts_channels_by_the_same_densities() -> None:
    params = weights({"a": (20, 10), "b": (20, 40)})
    masks = l1(erk).masks(params, Config(0.6))
    # 16 of 40 stay at densities eps * 30 / 200 and eps * 60 / 800, so at two to one
    assert gone(masks, params) == {"a": 20 - 11, "b": 20 - 5}


def lamp_scores(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    return [values[u] / math.fsum(values[v] for v in order[order.index(u) :]) for u in range(len(values))]


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
def test_lamp_ranks_by_the_published_score(sparsity: float) -> None:
    params = {
        "a": weights({"a": (6, 5)})["a"],
        "b": 20 * weights({"b": (7, 4)}, 1)["b"],
        "c": torch.tensor([[3.0, -3.0, 3.0]]),
    }
    scored = [
        (score, name, i)
        for name, value in params.items()
        for i, score in enumerate(lamp_scores(value.double().square().flatten().tolist()))
    ]
    removed = {(name, i) for _, name, i in sorted(scored)[: math.floor(sparsity * 61 + 1e-9)]}
    masks = level(lamp).masks(params, Config(sparsity))
    assert {(name, i) for name in params for i in (~masks[name]).flatten().nonzero().flatten().tolist()} == removed


def test_the_power_of_lamp_matters() -> None:
    params = {"a": torch.tensor([[1.0, 3.0]]), "b": torch.tensor([[1.0, 1.0, 1.0, 1.2]])}
    one = Config(1 / 6)
    assert gone(level(lamp).masks(params, one), params) == {"a": 1, "b": 0}  # 1 / 10 < 1 / 4.44
    assert gone(level(lamp(power=1)).masks(params, one), params) == {"a": 0, "b": 1}  # 1 / 4 > 1 / 4.2


def outlier_sparsities(params: Mapping[str, Tensor], s: float, m: float, lam: float) -> dict[str, float]:
    shares = {name: float((w.abs() > m * w.abs().mean()).double().mean()) for name, w in params.items()}
    low, high = min(shares.values()), max(shares.values())
    n = {name: 2 * lam * (share - low) / (high - low) for name, share in shares.items()}
    mean = sum(n.values()) / len(n)
    return {name: s - (more - mean) for name, more in n.items()}


@pytest.mark.parametrize(("sparsity", "m", "lam"), [(0.7, 3.0, 0.08), (0.5, 2.0, 0.15)])
def test_owl_gives_the_published_sparsities_to_layers_of_one_size(sparsity: float, m: float, lam: float) -> None:
    params = {name: w**power for power, (name, w) in enumerate(weights(dict.fromkeys("abcd", (30, 30))).items(), 1)}
    counts = gone(level(owl(m=m, lam=lam)).masks(params, Config(sparsity)), params)
    wanted = outlier_sparsities(params, sparsity, m, lam)
    assert sum(counts.values()) == math.floor(sparsity * 3600 + 1e-9)
    assert max(counts.values()) - min(counts.values()) == pytest.approx(2 * lam * 900, abs=1.5)
    assert all(abs(counts[name] - part * 900) <= 1 for name, part in wanted.items())


def test_owl_without_outliers_is_uniform() -> None:
    params = {name: torch.ones(10, 10) for name in "abc"}
    assert gone(level(owl).masks(params, Config(0.5)), params) == {"a": 50, "b": 50, "c": 50}


@pytest.mark.parametrize(
    ("sparsity", "counts"),
    [(0.3, [0, 40, 40, 40]), (0.6, [0, 80, 80, 80]), (0.62, [0, 84, 84, 80]), (0.69, [0, 98, 98, 80])],
)
def test_uniform_plus_spares_the_ends(sparsity: float, counts: list[int]) -> None:
    params = {name: torch.ones(10, 10) for name in ("z", "y", "x", "w")}  # first is what comes first
    assert list(gone(level(uniform_plus).masks(params, Config(sparsity)), params).values()) == counts


def pooled_blocks(weight: Tensor, a: int, b: int, sparsity: float) -> Tensor:
    """Blocks of `a` rows by `b` columns of kernels, one after the other."""
    mask = torch.ones(weight.shape, dtype=torch.bool)
    places = [(i, j) for i in range(0, weight.shape[0], a) for j in range(0, weight.shape[1], b)]
    ranked = sorted(places, key=lambda at: (float(weight[at[0] : at[0] + a, at[1] : at[1] + b].abs().sum()), at))
    for i, j in ranked[: math.floor(sparsity * len(places) + 1e-9)]:
        mask[i : i + a, j : j + b] = False
    return mask


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (4, 6, 3, 3)])
@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.99])
def test_blocks_go_as_one(shape: tuple[int, ...], sparsity: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-2, 3, shape, generator=generator).float()
    found = level(block(2, 3)).masks({"w": weight}, Config(sparsity))["w"]
    assert torch.equal(found, pooled_blocks(weight, 2, 3, min(sparsity, 0.9)))


def test_blocks_of_a_transposed_convolution_lie_in_its_groups() -> None:
    net = nn.ConvTranspose2d(4, 6, 2, groups=2)  # weight (in 4, out of a group 3, 2, 2)
    model = Model.from_module(net)
    found = level(block(3, 2)).masks(model, Config(0.5))["weight"]
    assert torch.equal(found, pooled_blocks(model["weight"], 2, 3, 0.5))


def test_filling_rounds_to_the_nearest() -> None:
    # the level at which a count becomes n is (n - .5) / size: .05, .15, .25 and .167
    assert filled([10, 3], [(0, 9), (0, 2)], 3, lambda level: (level, level), (0.0, 1.0)) == [2, 1]


def test_filling_is_monotone_exact_and_bounded() -> None:
    sizes, bounds, slopes = [7, 50, 13, 1], [(1, 6), (0, 49), (3, 9), (0, 0)], [0.3, 1.0, 0.7, 2.0]
    before: list[int] | None = None
    for total in range(4, 65):
        counts = filled(sizes, bounds, total, lambda level: [level * slope for slope in slopes], (0.0, 4.0))
        assert sum(counts) == total
        assert all(low <= n <= high for n, (low, high) in zip(counts, bounds, strict=True))
        if before is not None:
            assert sum(abs(n - m) for n, m in zip(counts, before, strict=True)) == 1
        before = counts


@pytest.mark.parametrize("allocation", [globally, erk, lamp, owl(m=1.5), uniform_plus])
def test_caps_are_respected(allocation: object) -> None:
    params = weights(dict.fromkeys("abcd", (10, 10)))
    rule = {"total_sparsity": 0.45, "max_sparsity_per_layer": {"b": 0.2, "c": 0.9}}
    counts = gone(level(allocation).masks(params, [rule]), params)
    assert sum(counts.values()) == 180
    assert counts["b"] <= 20 and counts["c"] <= 90


@pytest.mark.parametrize(
    ("allocation", "reachable"), [(globally, 107), (erk, 107), (lamp, 107), (owl(m=1.5), 107), (uniform_plus, 80)]
)
def test_caps_that_leave_too_little_are_refused_with_what_they_leave(allocation: object, reachable: int) -> None:
    """Layers of 100 weights under caps of .27, .27, .27 and .26; the first stays dense under `uniform_plus`."""
    params = weights(dict.fromkeys("abcd", (10, 10)))

    def rules(count: int) -> list[dict[str, object]]:
        return [{"total_sparsity": count / 400, "max_sparsity_per_layer": dict.fromkeys("abc", 0.27) | {"d": 0.26}}]

    assert sum(gone(level(allocation).masks(params, rules(reachable)), params).values()) == reachable
    with pytest.raises(ConfigError) as caught:
        level(allocation).masks(params, rules(reachable + 1))
    assert f"{reachable / 400:g}" in str(caught.value)


def test_units_alike_keep_to_the_smallest_cap_and_refuse_what_is_beyond() -> None:
    net = nn.Sequential(*[nn.Linear(10, 10) for _ in range(4)])
    model, x = Model.from_module(net), torch.ones(1, 10)

    def rules(total: float) -> list[dict[str, object]]:
        caps = {"0": 0.3, "1": 0.8, "2": 0.5}
        return [{"op_names": ["0", "1", "2"], "total_sparsity": total, "max_sparsity_per_layer": caps}]

    for allocation in (isomorphic, dependency_aware):
        masks = l1(allocation).masks(model, rules(0.5), example_inputs=x)
        counts = [int((~masks[f"{i}.bias"]).sum()) for i in range(3)]
        assert counts[0] <= 3 and counts[1] <= 8 and counts[2] <= 5 and sum(counts) >= 10
        with pytest.raises(ConfigError, match=r"at most|reach"):
            l1(allocation).masks(model, rules(0.9), example_inputs=x)
