"""Whole units: counted exactly, scored fairly, and taken with everything that belongs to them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune import Config, Masks, Model, agp, compact, dependency_aware, inputs, l1, linear, speed_up
from fprune.criteria import channel_norm
from fprune.errors import ConfigError, StructureError
from fprune.layers import unit_view
from fprune.scope import Scope
from fprune.structure import trace
from tests.unit.allocate.test_axes import X, grouped, residual

CONVS = [{"op_types": ["Conv2d"], "sparsity": 0.5}]


def masks_of(net: Any, config: Any, **known: Any) -> Masks:
    return l1(dependency_aware).masks(Model.of(net), Config.of(config), example_inputs=inputs(X), **known)


def gone(masks: Masks, name: str, axis: int = 0) -> list[int]:
    mask = masks[name]
    alive = mask.movedim(axis, 0).flatten(1).any(1) if mask.ndim > 1 else mask
    return (~alive).nonzero().flatten().tolist()


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randint(-4, 5, param.shape, generator=generator))
    return net


@given(st.integers(0, 99), st.floats(0, 0.99))
def test_counts_are_exact(seed: int, sparsity: float) -> None:
    masks = masks_of(seeded(residual(), seed), [{"op_types": ["Conv2d"], "sparsity": sparsity}])
    for name, units in (("conv1.weight", 8), ("conv2.weight", 6), ("conv3.weight", 8)):
        k = math.floor(sparsity * units + 1e-9)
        assert len(gone(masks, name)) == k if k else name not in masks or masks[name].movedim(0, 0).any()


def test_a_unit_takes_everything_that_belongs_to_it() -> None:
    masks = masks_of(seeded(residual()), CONVS)
    stream, inner = gone(masks, "conv1.weight"), gone(masks, "conv2.weight")
    assert len(stream) == 4 and len(inner) == 3
    assert gone(masks, "conv3.weight") == gone(masks, "conv1.bias") == gone(masks, "conv3.bias") == stream
    assert gone(masks, "fc.weight", 1) == gone(masks, "conv2.weight", 1) == stream
    assert gone(masks, "conv2.bias") == gone(masks, "conv3.weight", 1) == inner
    assert "fc.bias" not in masks


def test_the_score_is_the_mean_of_relative_norms() -> None:
    net = seeded(residual(), 3)
    masks = masks_of(net, [{"op_names": ["conv1", "conv3"], "sparsity": 0.5}])
    relative = []
    for conv in (net.conv1, net.conv3):
        norms = conv.weight.detach().abs().flatten(1).sum(1).double()
        relative.append(norms / norms.mean())
    expected = torch.stack(relative).mean(0).argsort(stable=True)[:4]
    assert gone(masks, "conv1.weight") == sorted(expected.tolist())


@given(st.integers(0, 50), st.sampled_from((-6, -1, 3, 10)), st.sampled_from(("conv1", "conv2", "conv3")))
def test_scaling_one_layer_changes_nothing(seed: int, power: int, name: str) -> None:
    net = seeded(residual(), seed)
    config = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]
    before = masks_of(net, config)
    with torch.no_grad():
        getattr(net, name).weight.mul_(2.0**power)
    assert masks_of(net, config) == before


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
def test_ties_go_by_position() -> None:
    net = residual()
    with torch.no_grad():
        for param in net.parameters():
            param.fill_(1)
    for _ in range(2):
        masks = masks_of(net, CONVS)
        assert gone(masks, "conv1.weight") == [0, 1, 2, 3] and gone(masks, "conv2.weight") == [0, 1, 2]
    masks = masks_of(net, [{"op_types": ["Conv2d"], "total_sparsity": 0.5}])
    assert gone(masks, "conv1.weight") == [0, 1, 2, 3, 4] and "conv2.weight" in masks


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7])
def test_a_total_is_shared(sparsity: float) -> None:
    """22 output channels; a unit of the stream costs two of them, one inside one."""
    masks = masks_of(seeded(residual(), 1), [{"op_types": ["Conv2d"], "total_sparsity": sparsity}])
    lost = sum(len(gone(masks, f"{n}.weight")) for n in ("conv1", "conv2", "conv3") if f"{n}.weight" in masks)
    budget = math.floor(sparsity * 22 + 1e-9)
    assert budget - 1 <= lost <= budget


def test_a_bound_holds_under_a_total() -> None:
    config = [{"op_types": ["Conv2d"], "total_sparsity": 0.4, "max_sparsity_per_layer": {"conv1": 0.25}}]
    masks = masks_of(seeded(residual(), 1), config)
    assert len(gone(masks, "conv1.weight")) == 2 and len(gone(masks, "conv2.weight")) == 4


def test_a_total_out_of_reach_says_what_is_in_reach() -> None:
    config: list[dict[str, Any]] = [
        {"op_types": ["Conv2d"], "total_sparsity": 0.9, "max_sparsity_per_layer": {"conv1": 0.5, "conv2": 0.5}}
    ]
    with pytest.raises(ConfigError, match=r"total_sparsity 0.9 is out of reach") as caught:
        masks_of(residual(), config)
    most = float(str(caught.value).split("at most ")[1].split(",")[0])
    config[0]["total_sparsity"] = most
    masks_of(residual(), config)


def test_a_sparsity_over_its_own_bound_names_the_rule() -> None:
    rules: list[dict[str, Any]] = [{"op_names": ["conv2"], "total_sparsity": 0.1}]
    rules += [{"op_names": ["conv1"], "sparsity": 0.5, "max_sparsity_per_layer": {"conv1": 0.25}}]
    with pytest.raises(ConfigError, match=r"rule 1: sparsity 0.5 of 'conv1' is more than its bound 0.25"):
        masks_of(residual(), rules)


def test_every_family_keeps_a_unit() -> None:
    masks = masks_of(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.99}])
    assert len(gone(masks, "conv1.weight")) == 7 and len(gone(masks, "conv2.weight")) == 5


def test_sparsity_zero_removes_nothing() -> None:
    assert masks_of(residual(), [{"op_types": ["Conv2d"], "sparsity": 0.0}]) == Masks()


def test_an_excluded_partner_keeps_its_channels() -> None:
    masks = masks_of(residual(), [*CONVS, {"op_names": ["conv3"], "exclude": True}])
    assert "conv1.weight" not in masks and "conv3.bias" not in masks and len(gone(masks, "conv2.weight")) == 3


def test_grouped_layers_lose_places_of_every_group() -> None:
    masks = masks_of(seeded(grouped()), [{"op_names": ["a"], "sparsity": 0.5}])
    lost = gone(masks, "a.weight")
    assert len(lost) == 6 and lost[:2] == [i - 4 for i in lost[2:4]] == [i - 8 for i in lost[4:]]
    assert gone(masks, "b.weight", 1) == lost[:2]


@given(st.integers(0, 30), st.lists(st.floats(0, 0.95), min_size=2, max_size=4).map(sorted))
def test_masks_only_shrink(seed: int, rounds: list[float]) -> None:
    model = Model.from_module(seeded(residual(), seed))
    structure = trace(model, inputs(X))
    masks = Masks()
    for sparsity in rounds:
        scope = Scope.of(model.replace(masks.apply(model)), masks=masks, structure=structure, example_inputs=inputs(X))
        new = dependency_aware(channel_norm(p=1), scope, Config.of([{"op_types": ["Conv2d"], "sparsity": sparsity}]))
        assert new.shrinks(masks)
        masks = new
    layer = next(layer for layer in model.layers if layer.name == "conv1")
    kept = (
        masks[layer.weight].expand(layer.shape) if layer.weight in masks else torch.ones(layer.shape, dtype=torch.bool)
    )
    assert int((~unit_view(kept, layer).any(1)).sum()) == math.floor(rounds[-1] * 8 + 1e-9)


@pytest.mark.parametrize("schedule", [agp(3), linear(4)], ids=repr)
def test_counts_are_those_of_the_original_after_compaction(schedule: Any) -> None:
    """Compacting every round and at the end keeps the same channels."""
    net = seeded(residual(), 5).double()
    each = schedule | l1(dependency_aware) | speed_up()
    end = schedule | l1(dependency_aware)
    x = (X.double(),)
    a, b = (p.run(net, CONVS, example_inputs=x) for p in (each, end))
    once = speed_up()(b)
    assert a.model["conv1.weight"].shape == (4, 3, 3, 3) and a.model["conv2.weight"].shape == (3, 4, 3, 3)
    assert {n: v.shape for n, v in a.model.items()} == {n: v.shape for n, v in once.model.items()}
    assert all(torch.equal(a.model[name], once.model[name]) for name in a.model)


def test_inherited_masks_count() -> None:
    """Two units are gone already; two more make four."""
    model = Model.from_module(seeded(residual(), 2))
    early = masks_of(model, [{"op_names": ["conv1"], "sparsity": 0.25}])
    late = masks_of(model.replace(early.apply(model)), [{"op_names": ["conv1"], "sparsity": 0.5}], masks=early)
    assert set(gone(early, "conv1.weight")) < set(gone(late, "conv1.weight")) and len(gone(late, "conv1.weight")) == 4


def test_plain_tensors_have_no_structure() -> None:
    with pytest.raises(StructureError, match="needs the structure of a model"):
        dependency_aware(channel_norm(), {"w": torch.ones(4, 3)}, Config(0.5))


def test_what_it_masks_can_all_go() -> None:
    model = Model.from_module(seeded(residual(), 4).double())
    structure = trace(model, inputs(X.double()))
    masks = masks_of(model, CONVS, structure=structure)
    done = compact(model, masks, structure)
    assert not done.report.refused and done.model["conv1.weight"].shape[0] == 4 and not done.masks


def test_it_prints_and_says_what_it_needs() -> None:
    assert repr(dependency_aware) == "dependency_aware"
    assert l1(dependency_aware).needs >= {"example_inputs"}
