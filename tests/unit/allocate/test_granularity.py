"""Units that rules name: heads, their width, channels, one family; multiples and least counts; all counted exactly."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune import Config, Model, agp, compact, dependency_aware, globally, inputs, l1, one_shot, per_layer, speed_up
from fprune.allocate.axes import axes, staying
from fprune.errors import ConfigError
from fprune.structure import trace, verify
from tests.unit.allocate.test_axes import residual
from tests.unit.allocate.test_dependency_aware import gone
from tests.unit.structure.test_roles import grouped_by_einsum, joined, split
from tests.unit.toys import Written

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
IMAGE = torch.zeros(2, 3, 6, 6)


def block(heads: int = 6, width: int = 4, hidden: int = 20) -> Model:
    """A stream of 12 channels, attention and a feed-forward layer that write to it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (split(layer(x), heads) for layer in (self.q, self.k, self.v))
        x = x + self.o(joined((q @ k.mT).softmax(-1) @ v))
        return self.head(x + self.fc2(self.fc1(x).relu()))

    torch.manual_seed(0)
    inner = heads * width
    parts = {name: nn.Linear(12, inner) for name in "qkv"}
    parts |= {"stem": nn.Linear(6, 12), "o": nn.Linear(inner, 12), "head": nn.Linear(12, 3)}
    return Model.from_module(Written(forward, **parts, fc1=nn.Linear(12, hidden), fc2=nn.Linear(hidden, 12)).double())


def taken(model: Model, rules: Any) -> dict[str, tuple[int, int]]:
    """Family -> how many of its units a config masks, of how many; checks that all of it can go, exactly."""
    structure = trace(model, X)
    masks = l1(dependency_aware).masks(model, Config.of(rules), example_inputs=inputs(X))
    done = compact(model, masks, structure, style="graph")
    assert dict(done.report.refused) == {}
    assert max(verify(model.replace(masks.apply(model)), done.model, inputs(X))) < 1e-9
    removed = done.report.removed
    return {f.name: (removed[f.name], len(f)) for f in structure.families if f.name in removed}


def test_by_default_heads_and_channels_go_and_the_width_of_heads_stays() -> None:
    assert taken(block(), 0.5) == {"k.weight": (3, 6), "fc2.weight": (6, 12), "fc1.weight": (10, 20)}


def test_of_grouped_queries_whole_groups_go() -> None:
    model = Model.from_module(grouped_by_einsum())
    assert taken(model, [{"op_names": ["q", "k", "v"], "sparsity": 0.5}]) == {"k.weight": (1, 2)}
    assert taken(model, [{"op_names": ["q"], "sparsity": 0.5, "granularity": "family:q.weight"}]) == {
        "q.weight": (1, 3)
    }


def test_also_when_the_width_has_more_places_than_there_are_heads() -> None:
    assert taken(block(heads=3, width=8), [{"op_names": ["q", "k", "v"], "sparsity": 0.7}]) == {"k.weight": (2, 3)}


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("head", {"k.weight": (2, 6)}),
        ("head_dim", {"k.weight#2": (1, 4), "v.weight": (1, 4)}),
        ("channel", {"fc2.weight": (4, 12), "fc1.weight": (6, 20)}),
        ("family:k.weight#2", {"k.weight#2": (1, 4)}),
        ("family:fc1.weight", {"fc1.weight": (6, 20)}),
        ("family:fc2.weight", {"fc2.weight": (4, 12)}),
    ],
)
@pytest.mark.parametrize("key", ["sparsity", "total_sparsity"])
def test_only_what_the_rule_names(granularity: str, expected: dict[str, tuple[int, int]], key: str) -> None:
    found = taken(block(), [{key: 0.34, "granularity": granularity}])
    if key == "sparsity":
        assert found == expected
    else:  # counted in the channels of the rule's layers that have these units
        width = {"k.weight": 12, "k.weight#2": 12, "v.weight": 6, "fc2.weight": 3, "fc1.weight": 1}
        costs = {name: width[name] * removed for name, (removed, _) in found.items()}
        total = sum(width[name] * count for name, (_, count) in expected.items())
        most = max(width[name] for name in expected)
        assert set(found) <= set(expected)
        assert math.floor(0.34 * total) - most < sum(costs.values()) <= math.floor(0.34 * total)


def test_rules_of_different_granularity_for_different_layers() -> None:
    rules = [
        {"sparsity": 0.5, "granularity": "channel"},
        {"op_names": ["q"], "sparsity": 0.34, "granularity": "head"},
        {"op_names": ["fc1"], "sparsity": 0.1},
    ]
    assert taken(block(), rules) == {"k.weight": (2, 6), "fc2.weight": (6, 12), "fc1.weight": (2, 20)}


def test_different_amounts_for_what_they_do_not_share() -> None:
    """The rows of q belong to heads and to their width: each by the layer whose rule names it."""
    rules = [
        {"op_names": ["q"], "sparsity": 0.34, "granularity": "head"},
        {"op_names": ["k"], "sparsity": 0.5, "granularity": "head_dim"},
    ]
    assert taken(block(), rules) == {"k.weight": (2, 6), "k.weight#2": (2, 4)}


@given(st.integers(0, 99), st.floats(0, 0.99), st.integers(1, 9), st.integers(1, 9))
def test_multiples_and_least_counts_are_exact(seed: int, sparsity: float, step: int, least: int) -> None:
    torch.manual_seed(seed)
    net = residual()
    config = [{"op_types": ["Conv2d"], "sparsity": sparsity, "round_to": step, "min_kept": least}]
    sizes = {"conv1.weight": 8, "conv2.weight": 6}
    legal = {name: [n for n in range(step, size + 1, step) if n >= min(least, size)] for name, size in sizes.items()}
    if not all(legal.values()):
        with pytest.raises(ConfigError, match=r"units, which cannot be kept in multiples of"):
            l1(dependency_aware).masks(Model.of(net), Config(config), example_inputs=inputs(IMAGE))
        return
    masks = l1(dependency_aware).masks(Model.of(net), Config(config), example_inputs=inputs(IMAGE))
    for name, size in sizes.items():
        kept = size - (len(gone(masks, name)) if name in masks else 0)
        asked = size - min(math.floor(sparsity * size + 1e-9), size - 1)
        assert kept == min((n for n in legal[name] if n >= asked), default=size)


@given(st.integers(0, 99), st.floats(0, 0.6), st.sampled_from([1, 2, 3]))
def test_multiples_under_one_budget(seed: int, sparsity: float, step: int) -> None:
    torch.manual_seed(seed)
    config = [{"op_types": ["Conv2d"], "total_sparsity": sparsity, "round_to": step}]
    masks = l1(dependency_aware).masks(Model.of(residual()), Config(config), example_inputs=inputs(IMAGE))
    lost = {name: len(gone(masks, name)) if name in masks else 0 for name in ("conv1.weight", "conv2.weight")}
    for (name, removed), size in zip(lost.items(), (8, 6), strict=True):
        assert removed == 0 or (size - removed) % step == 0, name
    spent, budget = 2 * lost["conv1.weight"] + lost["conv2.weight"], math.floor(sparsity * 22 + 1e-9)
    assert budget - 2 * step < spent <= budget or spent == 2 * (8 - step) + 6 - step


def test_the_portions_with_the_lowest_mean_go_first() -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))
    sizes = {"0.weight": [1.0, 9, 9, 9, 2, 3], "2.weight": [4.0, 4, 4, 4, 5, 5]}
    rows = {name: torch.tensor(values)[:, None].expand(6, 6).contiguous() for name, values in sizes.items()}
    rule = {"op_names": ["0", "2"], "total_sparsity": 0.5, "round_to": 3}
    masks = l1(dependency_aware).masks(model.replace(rows), Config([rule]), example_inputs=inputs(torch.ones(1, 6)))
    # relative to the mean of a layer: [.18, 1.6, 1.6, 1.6, .36, .55] and [.92, .92, .92, .92, 1.2, 1.2]
    assert gone(masks, "0.weight") == [0, 4, 5]
    assert gone(masks, "2.weight") == [0, 1, 2]
    masks = l1(dependency_aware).masks(
        model.replace(rows), Config([{**rule, "total_sparsity": 0.25}]), example_inputs=inputs(torch.ones(1, 6))
    )
    assert gone(masks, "0.weight") == [0, 4, 5] and gone(masks, "2.weight") == []


@pytest.mark.parametrize("compacting", [True, False])
def test_every_round_of_a_schedule_keeps_a_multiple(compacting: bool) -> None:
    pipeline = agp(6) | l1(dependency_aware)
    pipeline = pipeline | speed_up() if compacting else pipeline
    config = [{"op_names": ["fc1"], "sparsity": 0.75, "round_to": 6}, {"op_names": ["q"], "sparsity": 0.5}]
    kept: list[tuple[int, int]] = []
    for result in pipeline.stream(block().to_module(), config, example_inputs=(X,)):
        counts = result.report.channels
        kept.append((20 - counts["fc1.weight"].removed, 24 - counts["q.weight"].removed))
    assert all(n == 20 or n % 6 == 0 for n, _ in kept)
    assert all(n % 4 == 0 for _, n in kept)
    assert kept[-1] == (6, 12)
    assert kept == sorted(kept, reverse=True)


def test_coupled_rules_meet_in_a_common_multiple() -> None:
    rules = [
        {"op_names": ["conv1"], "sparsity": 0.5, "round_to": 2, "min_kept": 3},
        {"op_names": ["conv3"], "sparsity": 0.5, "round_to": 3},
    ]
    model = Model.from_module(residual())
    (axis,) = axes(trace(model, inputs(IMAGE)), Config.of(rules).resolve(model))
    assert (axis.round_to, axis.min_kept) == (6, 3)
    masks = l1(dependency_aware).masks(model, Config(rules), example_inputs=inputs(IMAGE))
    assert len(gone(masks, "conv1.weight")) == 2


def test_what_no_multiple_reaches_stays_and_is_said() -> None:
    model = Model.from_module(residual())
    rules = [{"op_types": ["Conv2d"], "sparsity": 0.2, "round_to": 4}]
    structure = trace(model, inputs(IMAGE))
    told = staying(structure, Config.of(rules).resolve(model))
    assert set(told) == {"conv1", "conv2", "conv3"}
    assert told["conv2"] == "all 6 units of 'conv2.weight' stay: 1 would go, and 4 at a time"
    result = (one_shot() | l1(dependency_aware)).run(model.to_module(), rules, example_inputs=(IMAGE,))
    assert result.report.channels["conv1.weight"].removed == 0
    assert f"conv2: {told['conv2']}" in result.notes
    assert staying(structure, Config.of([{**rules[0], "sparsity": 0.5}]).resolve(model)) == {}


@pytest.mark.parametrize("allocation", [per_layer, globally])
@pytest.mark.parametrize("key", [{"granularity": "head"}, {"round_to": 8}, {"min_kept": 4}])
def test_allocations_of_single_layers_refuse_what_is_about_units(allocation: Any, key: dict[str, Any]) -> None:
    found = f"rule 0: {next(iter(key))} is about whole units, and {allocation.__name__} knows single layers only"
    with pytest.raises(ConfigError, match=found) as caught:
        l1(allocation).masks(block(), Config([{"sparsity": 0.5, **key}]))
    assert "dependency_aware" in caught.value.hint
