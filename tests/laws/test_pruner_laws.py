"""What holds for every pruner with every allocation: counts, shapes, rounds, and that nothing else is touched.

Weights are small integers stored as floats: sums are exact, ties are frequent, and the laws hold bit for bit.
"""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

import fprune.allocate
import fprune.pruners
from fprune.compose import Factory
from fprune.layers import layers_of
from fprune.masks import Masks
from fprune.tree import digest
from tests.laws.tables import (
    ALLOCATIONS,
    LAWS,
    NETS,
    PRUNERS,
    SPARSITIES,
    Pruner,
    Spread,
    count,
    drawn,
    draws,
    expected,
    found,
    grain_of,
    pairs,
    plain,
    prunable,
    reachable,
    removed,
    scored,
    several,
    whole,
)


def test_every_public_pruner_and_allocation_is_listed() -> None:
    assert {p.name.split(",")[0] for p in PRUNERS} == {
        name for name, value in vars(fprune.pruners).items() if isinstance(value, Factory)
    }
    public = {name for name, value in vars(fprune.allocate).items() if callable(value) and name.islower()}
    assert {a.name.split(",")[0] for a in ALLOCATIONS} == public - {"lowest"}


def test_only_known_laws_are_off_and_each_with_a_reason() -> None:
    off = [item for listed in (*PRUNERS, *ALLOCATIONS) for item in listed.off.items()]
    assert all(law in LAWS and len(reason) > 5 for law, reason in off)


@pairs("counts")
@given(draw=draws)
@several
def test_counts_are_exact(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model, grain = drawn(pruner, draw), grain_of(pruner, allocation)
    layers = prunable(model)
    for sparsity in reachable(allocation):
        masks = found(pruner, allocation, model, sparsity)
        counts = {layer.weight: removed(masks, layer, grain) for layer in layers}
        if allocation.total:
            assert sum(counts.values()) == count(sparsity, sum(whole(layer, grain) for layer in layers))
        else:
            assert counts == {layer.weight: expected(pruner, allocation, layer, sparsity) for layer in layers}


@pairs("ties", lambda p, a: scored(p, a) and not a.removes)
def test_ties_go_by_index_in_large_tensors(pruner: Pruner, allocation: Spread) -> None:
    shape = (4096, 8) if pruner.grain == "channel" else (64, 64)
    params = {"w": torch.ones(shape)}
    (layer,) = layers_of(params)
    size = allocation.block(layer, pruner.grain)
    for sparsity in (0.29, 0.5):
        mask = found(pruner, allocation, params, sparsity)["w"].reshape(-1, size)
        k = count(sparsity, size)
        assert not mask[:, :k].any()
        assert mask[:, k:].all()


@pairs("ties", lambda p, a: scored(p, a) and a.shared)
def test_ties_go_by_sorted_name(pruner: Pruner, allocation: Spread) -> None:
    params = {name: torch.ones(8, 8) for name in ("m10", "m2", "a")}
    size = 8 if pruner.grain == "channel" else 64
    masks = found(pruner, allocation, params, 0.5)
    kept = {name: masks[name].flatten().tolist() for name in masks}
    # sorted: a, m10, m2; the first keeps its best one, the second gives the rest
    assert kept["a"] == [False] * (size - 1) + [True]
    assert kept["m10"] == [False] * (size // 2 + 1) + [True] * (size // 2 - 1)
    assert kept["m2"] == [True] * size


@pairs()
@given(draw=draws)
@several
def test_masks_are_bools_that_fit_the_parameters(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    masks = found(pruner, allocation, model, 0.5)
    masks.check(model)
    assert all(mask.dtype == torch.bool and mask.device == model[name].device for name, mask in masks.items())
    if not allocation.structural:
        layers = prunable(model)
        grain = grain_of(pruner, allocation)
        biases = {layer.bias for layer in layers} if grain == "channel" else set()
        assert set(masks) == {layer.weight for layer in layers} | biases
        assert all(
            masks[layer.weight].shape
            == (layer.shape if grain == "element" else (layer.units, *[1] * (len(layer.shape) - 1)))
            for layer in layers
        )


@pairs("shrinks")
@given(draw=draws)
@several
def test_masks_only_shrink_as_sparsity_grows(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    sequence = [found(pruner, allocation, model, sparsity) for sparsity in reachable(allocation)]
    assert all(later.shrinks(earlier) for earlier, later in pairwise(sequence))


@pairs("rounds")
@given(draw=draws, seeds=st.lists(st.integers(0, 99), min_size=7, max_size=7))
@several
def test_rounds_only_shrink_and_reach_the_same_counts(
    pruner: Pruner, allocation: Spread, draw: tuple[int, int], seeds: list[int]
) -> None:
    model, grain, masks = drawn(pruner, draw), grain_of(pruner, allocation), Masks()
    for sparsity, seed in zip(reachable(allocation), seeds, strict=False):
        at_once = found(pruner, allocation, model, sparsity)
        later = masks & found(
            pruner, allocation, model.replace(params=masks.apply(model)), sparsity, masks=masks, seed=seed
        )
        assert later.shrinks(masks)
        ours, theirs = ([removed(m, layer, grain) for layer in prunable(model)] for m in (later, at_once))
        assert sum(ours) == sum(theirs) if allocation.total else ours == theirs
        masks = later


@pairs("again")
@given(draw=draws, sparsity=st.sampled_from(SPARSITIES))
@several
def test_pruning_again_at_the_same_sparsity_changes_nothing(
    pruner: Pruner, allocation: Spread, draw: tuple[int, int], sparsity: float
) -> None:
    model, sparsity = drawn(pruner, draw), min(sparsity, allocation.most)
    masks = found(pruner, allocation, model, sparsity)
    again = found(pruner, allocation, model.replace(params=masks.apply(model)), sparsity, masks=masks, seed=1)
    assert again.shrinks(masks)
    assert masks & again == masks


@pairs()
@given(draw=draws)
@several
def test_the_same_twice_and_nothing_else_is_touched(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    inherited = Masks({"a.weight": torch.arange(8).reshape(8, 1, 1, 1) != 3})
    before = digest(model), digest(model.buffers), digest(inherited), [value._version for value in model.values()]
    state, flag = torch.get_rng_state(), model.training
    masks = found(pruner, allocation, model, 0.5, masks=inherited, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)  # global randomness plays no part
    again = found(pruner, allocation, model, 0.5, masks=inherited, seed=7)
    assert digest(masks) == digest(again)
    after = digest(model), digest(model.buffers), digest(inherited), [value._version for value in model.values()]
    assert (before, flag) == (after, model.training)
    shared = {tensor.data_ptr() for tensor in (*model.values(), *inherited.values())}
    assert not any(mask.data_ptr() in shared for mask in masks.values())


@pairs("order", plain)
@given(draw=draws, order=st.permutations(sorted(NETS["plain"].model)))
@several
def test_the_order_of_the_mapping_makes_no_difference(
    pruner: Pruner, allocation: Spread, draw: tuple[int, int], order: list[str]
) -> None:
    model = drawn(pruner, draw)
    as_dict = found(pruner, allocation, dict(model), 0.5)
    assert found(pruner, allocation, {name: model[name] for name in order}, 0.5) == as_dict
    assert found(pruner, allocation, model, 0.5) == as_dict


@pairs()
@given(draw=draws)
@several
def test_no_layer_is_emptied(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    masks = found(pruner, allocation, model, allocation.most)
    for name, mask in masks.items():
        assert mask.any(), name
    if not allocation.total and allocation.most == 0.9:
        masks = found(pruner, allocation, model, 0.9999)
        assert all(mask.any() for mask in masks.values())


@pairs()
@given(draw=draws)
@several
def test_what_is_excluded_stays_dense(pruner: Pruner, allocation: Spread, draw: tuple[int, int]) -> None:
    model = drawn(pruner, draw)
    masks = found(pruner, allocation, model, [{"sparsity": allocation.few}, {"op_names": ["c"], "exclude": True}])
    outputs = masks["c.weight"].expand(model["c.weight"].shape).flatten(1).any(dim=1) if "c.weight" in masks else None
    assert "c.bias" not in masks
    assert outputs is None or (allocation.structural and outputs.all())
