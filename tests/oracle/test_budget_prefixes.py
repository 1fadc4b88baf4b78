"""Budgets against trying every prefix of the removal order, each counted by `count` on the masked model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fprune import (
    Masks,
    Model,
    agp,
    compact,
    count,
    dependency_aware,
    globally,
    isomorphic,
    l1,
    level,
    speed_up,
)
from fprune.allocate import erk, lamp
from fprune.strategies import Mean, Residual
from fprune.structure import Structure, trace
from tests.unit.structure.test_cost import masks as masks_of
from tests.unit.test_count import Block


def residual() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Residual(5, 5, 1), Residual(5, 7, 2)]
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.ReLU(), *blocks, Mean(), nn.Linear(7, 3)).eval()


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


NETS = {"residual": (residual, torch.ones(1, 2, 8, 8)), "transformer": (transformer, torch.ones(2, 7, 24))}
BUDGETS = [{"flops": 0.4}, {"params": 0.3}, {"flops": 0.3, "params": 0.35}, {"flops": 0.0}]


def unit_scores(model: Model, structure: Structure) -> dict[int, float]:
    """Label -> the mean over layers of (norms of the unit's output channels / mean norm of a channel)."""
    matrices = {layer.weight for layer in model.layers if len(layer.shape) > 1}
    out: dict[int, float] = {}
    for family in structure.families:
        parts = [part for part in family.slices if part.tensor in matrices and part.dim == 0]
        for place, label in enumerate(family.labels.tolist()):
            terms = []
            for part in parts:
                norms = model[part.tensor].double().abs().flatten(1).sum(1)
                terms.append(float(norms[part.index[place]].sum() / norms.mean()))
            out[label] = sum(terms) / len(terms)
    return out


def order(model: Model, structure: Structure) -> list[int]:
    """Labels from the lowest score up, less those that are the last of their family."""
    scores, left = unit_scores(model, structure), {f.name: len(f) for f in structure.families}
    owner = {label: f.name for f in structure.families for label in f.labels.tolist()}
    found: list[int] = []
    for label in sorted(scores, key=scores.__getitem__):
        if left[owner[label]] > 1:
            left[owner[label]] -= 1
            found.append(label)
    return found


def saved(net: nn.Module, x: Tensor, masks: Masks | None, origin: nn.Module | None = None) -> dict[str, float]:
    before, after = count(origin or net, x), count(net, x, masks)
    return {"flops": 1 - after.flops / before.flops, "params": 1 - after.params / before.params}


def meets(found: Mapping[str, float], budget: Mapping[str, float]) -> bool:
    return all(found[key] >= part - 1e-12 for key, part in budget.items())


def asked(budget: Mapping[str, float], **more: Any) -> list[dict[str, Any]]:
    return [{"budget": budget, **more}]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", NETS)
def test_the_smallest_prefix_goes(name: str, budget: dict[str, float]) -> None:
    make, x = NETS[name]
    net = make()
    model, structure = Model.from_module(net), trace(net, x)
    found = l1(dependency_aware).masks(model, asked(budget), structure=structure)
    labels = order(model, structure)
    number = next(n for n in range(len(labels) + 1) if same(model, found, prefix(structure, model, labels, n)))
    assert meets(saved(net, x, prefix(structure, model, labels, number)), budget)
    assert number == 0 or not meets(saved(net, x, prefix(structure, model, labels, number - 1)), budget)
    assert (number > 0) == any(budget.values())


def prefix(structure: Structure, model: Model, labels: list[int], number: int) -> Masks:
    removed = np.zeros(structure.labels, np.bool_)
    removed[labels[:number]] = True
    return masks_of(structure, model, removed)


def same(model: Model, one: Masks, other: Masks) -> bool:
    full = torch.ones((), dtype=torch.bool)
    return all(torch.equal(*(m.get(n, full).expand(v.shape) for m in (one, other))) for n, v in model.items())


def test_isomorphic_classes_lose_the_same_fraction() -> None:
    make, x = NETS["residual"]
    net = make()
    structure = trace(net, x)
    found = l1(isomorphic).masks(Model.from_module(net), asked({"flops": 0.5}), structure=structure)
    kept = {f.name: kept_units(found, f.name, len(f)) / len(f) for f in structure.families}
    assert meets(saved(net, x, found), {"flops": 0.5})
    inner = (kept["2.conv1.weight"] * 5 + kept["3.conv1.weight"] * 7) / 12
    streams = [kept[name] for name in kept if not name.endswith("conv1.weight")]
    assert all(abs(stream - inner) <= 1 / 5 + 1e-9 for stream in streams)


def kept_units(masks: Masks, name: str, units: int) -> int:
    return int(masks[name].flatten(1).any(1).sum()) if name in masks else units


@pytest.mark.parametrize("allocation", [dependency_aware, isomorphic])
def test_bounds_and_multiples_hold_under_a_budget(allocation: Any) -> None:
    make, x = NETS["residual"]
    net = make()
    structure = trace(net, x)
    caps = {"max_sparsity_per_layer": {"0": 0.4}, "round_to": 2, "min_kept": 2}
    config = [{"op_types": ["Conv2d"], "budget": {"flops": 0.3}, **caps}]
    found = l1(allocation).masks(Model.from_module(net), config, structure=structure)
    counts = [kept_units(found, family.name, len(family)) for family in structure.families]
    assert all(n == len(f) or (n % 2 == 0 and n >= 2) for n, f in zip(counts, structure.families, strict=True))
    assert kept_units(found, "0.weight", 5) >= 3
    assert meets(saved(net, x, found), {"flops": 0.3})


def test_what_other_rules_remove_counts() -> None:
    make, x = NETS["residual"]
    net = make()
    structure = trace(net, x)
    rules = [{"budget": {"params": 0.3}}, {"op_names": ["3.conv1"], "sparsity": 0.9}]
    found = l1(dependency_aware).masks(Model.from_module(net), rules, structure=structure)
    alone = l1(dependency_aware).masks(Model.from_module(net), asked({"params": 0.3}), structure=structure)
    assert kept_units(found, "3.conv1.weight", 7) == 1
    assert meets(saved(net, x, found), {"params": 0.3})
    assert kept_units(found, "0.weight", 5) >= kept_units(alone, "0.weight", 5)


@pytest.mark.parametrize("allocation", [dependency_aware, isomorphic])
def test_rounds_with_compactions_count_against_the_origin(allocation: Any) -> None:
    make, x = NETS["residual"]
    net = make()
    config = asked({"flops": 0.5, "params": 0.2}, op_types=["Conv2d"])
    stages = agp(3) | l1(allocation)
    rounds = list((stages | speed_up()).stream(net, config, example_inputs=(x,)))
    for result in rounds:
        assert meets(saved(result.module(), x, None, net), result.goal.config.rules[0].budget or {})
    last = stages.run(net, config, example_inputs=(x,))
    once = compact(last.model, last.masks, trace(net, x))
    assert {n: p.shape for n, p in rounds[-1].model.items()} == {n: p.shape for n, p in once.model.items()}
    assert rounds[-1].lineage.kept == once.lineage.kept


PARAMS = {
    "a": torch.arange(1.0, 41).reshape(4, 10),
    "a.bias": torch.ones(4),
    "b": torch.arange(8.5, 38.5).reshape(5, 6),
}


@pytest.mark.parametrize("allocation", [globally, erk, lamp])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.61])
def test_elements_that_make_up_a_fraction_of_all_parameters(allocation: Any, part: float) -> None:
    masks = level(allocation).masks(PARAMS, asked({"params": part}))
    assert sum(int((~m).sum()) for m in masks.values()) == -(-int(part * 74 * 1000) // 1000)


def test_the_fewest_channels_that_make_up_a_fraction_of_all_parameters() -> None:
    params = {
        "a.weight": torch.ones(6, 9),
        "a.bias": torch.ones(6),
        "b.weight": 0.1 * torch.ones(6, 2),
        "c": torch.ones(4),
    }
    rule = {"op_names": ["a", "b"], "budget": {"params": 0.5}}  # 38 of 76: first 5 of b at 2, then a at 10
    masks = l1(globally).masks(params, [rule])
    assert [int((~masks[name]).sum()) for name in ("b.weight", "a.weight", "a.bias")] == [5, 3, 3]


def test_masks_and_other_rules_count_towards_a_fraction_of_all_parameters() -> None:
    inherited = Masks({"a": torch.arange(40).reshape(4, 10) > 3, "a.bias": torch.arange(4) > 0})
    rules = [{"op_names": ["a"], "budget": {"params": 0.5}}, {"op_names": ["b"], "sparsity": 0.5}]
    found = level(globally).masks(PARAMS, rules, masks=inherited)
    joined = inherited & found
    assert sum(int((~m).sum()) for m in joined.values()) == 37
    assert int((~joined["b"]).sum()) == 15 and joined.shrinks(inherited)
