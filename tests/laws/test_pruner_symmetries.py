"""What changes a pruner's masks in a known way: names, scales, signs, permutations; and that scores decide."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune.allocate import n_m
from fprune.masks import Masks
from tests.laws.tables import Pruner, Spread, distinct, drawn, draws, found, grain_of, pairs, scored, several


@pairs("names", scored)
@given(draw=draws)
@several
def test_renaming_parameters_renames_masks(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    renamed = {f"net.{name}": value for name, value in model.items()}  # keeps the order that ties go by
    wanted = Masks({f"net.{name}": mask for name, mask in found(pruner, allocation, model, 0.5).items()})
    assert found(pruner, allocation, renamed, 0.5) == wanted


@pairs("names", scored)
@pytest.mark.parametrize("seed", [0, 1])
def test_without_ties_any_renaming_renames_masks(pruner: Pruner, allocation: Spread, seed: int) -> None:
    params = distinct(seed)
    swap = {"a": "z", "c": "b", "g": "a"}
    rename = {name: swap[name[0]] + name[1:] for name in params}
    wanted = {rename[name]: mask for name, mask in found(pruner, allocation, params, 0.5).items()}
    assert found(pruner, allocation, {rename[name]: value for name, value in params.items()}, 0.5) == Masks(wanted)


@pairs("scale")
@given(draw=draws)
@several
def test_a_scale_of_two_to_the_k_makes_no_difference(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    as_it_is = found(pruner, allocation, model, 0.5)
    for power in (-20, -6, -1, 1, 8):
        scaled = model.replace(params={name: value * 2.0**power for name, value in model.items()})
        assert found(pruner, allocation, scaled, 0.5) == as_it_is


@pairs("signs")
@given(draw=draws)
@several
def test_flipping_all_signs_makes_no_difference(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    flipped = model.replace(params={name: -value for name, value in model.items()})
    assert found(pruner, allocation, flipped, 0.5) == found(pruner, allocation, model, 0.5)


@pairs("scores", lambda p, a: p.criterion is not None and not a.structural and not a.removes)
@given(draw=draws, sparsity=st.sampled_from([0.25, 0.5]))
@several
def test_nothing_kept_scores_lower_than_something_removed(
    pruner: Pruner, allocation: Spread, draw: tuple[int, int], sparsity: float
) -> None:
    assert pruner.criterion is not None
    model = drawn(pruner, draw)
    masks = found(pruner, allocation, model, sparsity)
    layers = [layer for layer in model.layers if layer.weight in masks]
    scores = pruner.criterion(model, layers)
    groups = []
    for layer in layers:
        score, mask = scores[layer.weight], masks[layer.weight]
        mask = mask.reshape(score.shape)
        if isinstance(allocation.value, type(n_m(2, 4))) and pruner.grain == "element":
            score, mask = score.movedim(1, -1), mask.movedim(1, -1)
        free = int(mask.sum()) > 1  # a layer that is down to its last one keeps it whatever the others score
        if free or not allocation.shared:
            groups.append((score.flatten(), mask.flatten(), allocation.block(layer, pruner.grain)))
    if allocation.shared:
        groups = [(torch.cat([g[0] for g in groups]), torch.cat([g[1] for g in groups]), -1)]
    for score, mask, size in groups:
        size = len(score) if size < 0 else size
        lowest_kept = score.masked_fill(~mask, math.inf).reshape(-1, size).amin(dim=1)
        highest_removed = score.masked_fill(mask, -math.inf).reshape(-1, size).amax(dim=1)
        assert (lowest_kept >= highest_removed).all()


@pairs("outputs", lambda p, a: scored(p, a) and not (a.runs and p.grain == "channel") and not a.removes)
@pytest.mark.parametrize("seed", [0, 1])
def test_permuting_outputs_permutes_masks(pruner: Pruner, allocation: Spread, seed: int) -> None:
    params = distinct(seed)
    generator = torch.Generator().manual_seed(seed)
    order = {name: torch.randperm(len(value), generator=generator) for name, value in params.items()}
    order = {name: order[name.replace("bias", "weight")] for name in params}
    wanted = {name: mask[order[name]] for name, mask in found(pruner, allocation, params, 0.5).items()}
    permuted = {name: value[order[name]] for name, value in params.items()}
    assert found(pruner, allocation, permuted, 0.5) == Masks(wanted)


@pairs("inputs", lambda p, a: scored(p, a) and not (a.runs and grain_of(p, a) == "element"))
@given(draw=draws, seed=st.integers(0, 99))
@several
def test_permuting_inputs_leaves_channels_and_permutes_elements(
    pruner: Pruner, allocation: Spread, draw: tuple[int, int], seed: int
) -> None:
    exact = pruner.grain == "channel"
    params = dict(drawn(pruner, draw)) if exact else distinct(seed)
    generator = torch.Generator().manual_seed(seed)
    order = {n: torch.randperm(v.shape[1], generator=generator) for n, v in params.items() if v.ndim > 1}
    permuted = {name: value[:, order[name]] if name in order else value for name, value in params.items()}
    plain = found(pruner, allocation, params, 0.5)
    wanted = plain if exact else Masks({name: mask[:, order[name]] for name, mask in plain.items()})
    assert found(pruner, allocation, permuted, 0.5) == wanted
