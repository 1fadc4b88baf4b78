"""What holds for every pruner with every allocation. A new one joins by a line in `PRUNERS` or `ALLOCATIONS`.

Weights are small integers stored as floats: sums are exact, ties are frequent, and the laws hold bit for bit.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, product

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fprune.allocate
import fprune.pruners
from fprune.allocate import Allocation, balanced, dependency_aware, globally, n_m, per_layer
from fprune.compose import Factory, Stage
from fprune.config import Config
from fprune.criteria import Criterion, channel_norm, geometric_distance, magnitude
from fprune.inputs import inputs
from fprune.layers import Layer, layers_of, unit_view
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import fpgm, l1, l2, level, random
from fprune.structure import trace
from fprune.tree import digest


@attrs.frozen
class Pruner:
    """A public pruner: how to make the stage, what it scores, and the criterion; None when that is chance."""

    name: str
    make: Callable[[Allocation], Stage]
    grain: str
    criterion: Criterion | None = None


@attrs.frozen
class Spread:
    """A public allocation: the value, the size of the block it counts in, the most it can remove.

    `shared`: layers compete; `runs`: which weights are neighbours matters; `structural`: it needs a traced model.
    """

    name: str
    value: Allocation
    block: Callable[[Layer, str], int]
    most: float = 0.9
    shared: bool = False
    runs: bool = False
    structural: bool = False


def whole(layer: Layer, grain: str) -> int:
    return layer.units if grain == "channel" else math.prod(layer.shape)


PRUNERS = [
    Pruner("level", level, "element", magnitude()),
    Pruner("l1", l1, "channel", channel_norm(p=1)),
    Pruner("l2", l2, "channel", channel_norm(p=2)),
    Pruner("fpgm", fpgm, "channel", geometric_distance()),
    Pruner("random", random, "element"),
    Pruner("random, channels", lambda allocation: random(allocation, granularity="channel"), "channel"),
]
ALLOCATIONS = [
    Spread("per_layer", per_layer, whole),
    Spread("globally", globally, whole, shared=True),
    Spread(
        "balanced", balanced(), lambda layer, grain: layer.units if grain == "channel" else math.prod(layer.shape[1:])
    ),
    Spread("balanced, runs", balanced(4), lambda layer, grain: 4, most=0.75, runs=True),
    Spread("n_m", n_m(2, 4), lambda layer, grain: 4, most=0.5, runs=True),
    Spread("dependency_aware", dependency_aware, whole, structural=True),
]


def pairs(wanted: Callable[[Pruner, Spread], bool]) -> pytest.MarkDecorator:
    listed = [(p, a) for p, a in product(PRUNERS, ALLOCATIONS) if wanted(p, a)]
    return pytest.mark.parametrize(
        ("pruner", "allocation"), [pytest.param(*x, id=f"{x[0].name}-{x[1].name}") for x in listed]
    )


every_pair = pairs(lambda pruner, allocation: True)
of_any_mapping = pairs(lambda pruner, allocation: not allocation.structural)
of_scores = pairs(lambda pruner, allocation: pruner.criterion is not None and not allocation.structural)
several = settings(max_examples=max(2, settings.default.max_examples // 8))
SPARSITIES = [0.0, 0.1, 0.25, 0.29, 0.5, 0.75, 0.9]

NET = Model.from_module(
    nn.Sequential(
        OrderedDict(
            a=nn.Conv2d(4, 8, 3, padding=1),
            b=nn.ReLU(),
            c=nn.Conv2d(8, 12, 3, padding=1),
            d=nn.ReLU(),
            e=nn.AdaptiveAvgPool2d(1),
            f=nn.Flatten(),
            g=nn.Linear(12, 4),
        )
    )
)
STRUCTURE = trace(NET, inputs(torch.ones(1, 4, 8, 8)))
HIDDEN = ("a.weight", "c.weight")  # the outputs of the last layer are the model's, so structural allocations keep them


def integers(seed: int, spread: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    return NET.replace(
        params={
            name: torch.randint(-spread, spread + 1, value.shape, generator=generator).float() + (spread == 0)
            for name, value in NET.items()
        }
    )


models = st.builds(integers, st.integers(0, 10**6), st.sampled_from([0, 1, 3, 50]))


def distinct(seed: int) -> dict[str, Tensor]:
    """Weights without ties, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in NET.items()}


def found(
    pruner: Pruner, allocation: Spread, params: Mapping[str, Tensor], sparsity: float, **options: object
) -> Masks:
    structure = STRUCTURE if allocation.structural else None
    return pruner.make(allocation.value).masks(params, Config(sparsity), structure=structure, **options)


def reachable(allocation: Spread) -> Iterator[float]:
    return (sparsity for sparsity in SPARSITIES if sparsity <= allocation.most)


def removed(masks: Masks, layer: Layer, grain: str) -> int:
    """How many of a layer's elements or units are masked entirely."""
    mask = (
        masks[layer.weight].expand(layer.shape) if layer.weight in masks else torch.ones(layer.shape, dtype=torch.bool)
    )
    return int((~mask).sum()) if grain == "element" else int((~unit_view(mask, layer).any(dim=1)).sum())


def grain_of(pruner: Pruner, allocation: Spread) -> str:
    return "channel" if allocation.structural else pruner.grain


def count(sparsity: float, total: int) -> int:
    return math.floor(sparsity * total + 1e-9)


def test_every_public_pruner_and_allocation_is_listed() -> None:
    assert {p.name.split(",")[0] for p in PRUNERS} == {
        name for name, value in vars(fprune.pruners).items() if isinstance(value, Factory)
    }
    public = {name for name, value in vars(fprune.allocate).items() if callable(value) and name.islower()}
    assert {a.name.split(",")[0] for a in ALLOCATIONS} == public - {"lowest"}


@every_pair
@given(model=models)
@several
def test_counts_are_exact(pruner: Pruner, allocation: Spread, model: Model) -> None:
    grain = grain_of(pruner, allocation)
    for sparsity in reachable(allocation):
        masks = found(pruner, allocation, model, sparsity)
        counts = {layer.weight: removed(masks, layer, grain) for layer in model.layers}
        if allocation.shared:
            assert sum(counts.values()) == count(sparsity, sum(whole(layer, grain) for layer in model.layers))
            continue
        for layer in model.layers:
            size = allocation.block(layer, grain)
            expected = whole(layer, grain) // size * count(sparsity, size)
            prunable = not allocation.structural or layer.weight in HIDDEN
            assert counts[layer.weight] == (expected if prunable else 0), (layer.name, sparsity)


@of_scores
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


@pairs(lambda pruner, allocation: pruner.criterion is not None and allocation.shared)
def test_ties_go_by_sorted_name(pruner: Pruner, allocation: Spread) -> None:
    params = {name: torch.ones(8, 8) for name in ("m10", "m2", "a")}
    size = 8 if pruner.grain == "channel" else 64
    masks = found(pruner, allocation, params, 0.5)
    kept = {name: masks[name].flatten().tolist() for name in masks}
    # sorted: a, m10, m2; the first keeps its best one, the second gives the rest
    assert kept["a"] == [False] * (size - 1) + [True]
    assert kept["m10"] == [False] * (size // 2 + 1) + [True] * (size // 2 - 1)
    assert kept["m2"] == [True] * size


@every_pair
@given(model=models)
@several
def test_masks_are_bools_that_fit_the_parameters(pruner: Pruner, allocation: Spread, model: Model) -> None:
    masks = found(pruner, allocation, model, 0.5)
    masks.check(model)
    assert all(mask.dtype == torch.bool and mask.device == model[name].device for name, mask in masks.items())
    if not allocation.structural:
        weights = {layer.weight for layer in model.layers}
        biases = {layer.bias for layer in model.layers} if pruner.grain == "channel" else set()
        assert set(masks) == weights | biases
        assert all(
            masks[layer.weight].shape
            == (layer.shape if pruner.grain == "element" else (layer.units, *[1] * (len(layer.shape) - 1)))
            for layer in model.layers
        )


@every_pair
@given(model=models)
@several
def test_masks_only_shrink_as_sparsity_grows(pruner: Pruner, allocation: Spread, model: Model) -> None:
    sequence = [found(pruner, allocation, model, sparsity) for sparsity in reachable(allocation)]
    assert all(later.shrinks(earlier) for earlier, later in pairwise(sequence))


@every_pair
@given(model=models, seeds=st.lists(st.integers(0, 99), min_size=7, max_size=7))
@several
def test_rounds_only_shrink_and_reach_the_same_counts(
    pruner: Pruner, allocation: Spread, model: Model, seeds: list[int]
) -> None:
    grain, masks = grain_of(pruner, allocation), Masks()
    for sparsity, seed in zip(reachable(allocation), seeds, strict=False):
        at_once = found(pruner, allocation, model, sparsity)
        later = masks & found(
            pruner, allocation, model.replace(params=masks.apply(model)), sparsity, masks=masks, seed=seed
        )
        assert later.shrinks(masks)
        ours, theirs = ([removed(m, layer, grain) for layer in model.layers] for m in (later, at_once))
        assert sum(ours) == sum(theirs) if allocation.shared else ours == theirs
        masks = later


@every_pair
@given(model=models, sparsity=st.sampled_from(SPARSITIES))
@several
def test_pruning_again_at_the_same_sparsity_changes_nothing(
    pruner: Pruner, allocation: Spread, model: Model, sparsity: float
) -> None:
    sparsity = min(sparsity, allocation.most)
    masks = found(pruner, allocation, model, sparsity)
    again = found(pruner, allocation, model.replace(params=masks.apply(model)), sparsity, masks=masks, seed=1)
    assert again.shrinks(masks)
    assert masks & again == masks


@every_pair
@given(model=models)
@several
def test_the_same_twice_and_nothing_else_is_touched(pruner: Pruner, allocation: Spread, model: Model) -> None:
    inherited = Masks({"a.weight": torch.arange(8).reshape(8, 1, 1, 1) != 3})
    before = digest(model), digest(inherited), [value._version for value in model.values()]
    state = torch.get_rng_state()
    masks = found(pruner, allocation, model, 0.5, masks=inherited, seed=7)
    torch.rand(3)  # global randomness plays no part
    torch.set_rng_state(state)
    again = found(pruner, allocation, model, 0.5, masks=inherited, seed=7)
    assert digest(masks) == digest(again)
    assert before == (digest(model), digest(inherited), [value._version for value in model.values()])
    assert torch.equal(torch.get_rng_state(), state)
    shared = {tensor.data_ptr() for tensor in (*model.values(), *inherited.values())}
    assert not any(mask.data_ptr() in shared for mask in masks.values())


@of_any_mapping
@given(model=models, order=st.permutations(sorted(NET)))
@several
def test_the_order_of_the_mapping_makes_no_difference(
    pruner: Pruner, allocation: Spread, model: Model, order: list[str]
) -> None:
    plain = found(pruner, allocation, dict(model), 0.5)
    assert found(pruner, allocation, {name: model[name] for name in order}, 0.5) == plain
    assert found(pruner, allocation, model, 0.5) == plain


@of_scores
@given(model=models)
@several
def test_renaming_parameters_renames_masks(pruner: Pruner, allocation: Spread, model: Model) -> None:
    renamed = {f"net.{name}": value for name, value in model.items()}  # keeps the order that ties go by
    expected = Masks({f"net.{name}": mask for name, mask in found(pruner, allocation, model, 0.5).items()})
    assert found(pruner, allocation, renamed, 0.5) == expected


@of_scores
@pytest.mark.parametrize("seed", [0, 1])
def test_without_ties_any_renaming_renames_masks(pruner: Pruner, allocation: Spread, seed: int) -> None:
    params = distinct(seed)
    swap = {"a": "z", "c": "b", "g": "a"}
    rename = {name: swap[name[0]] + name[1:] for name in params}
    expected = {rename[name]: mask for name, mask in found(pruner, allocation, params, 0.5).items()}
    assert found(pruner, allocation, {rename[name]: value for name, value in params.items()}, 0.5) == Masks(expected)


@every_pair
@given(model=models)
@several
def test_a_scale_of_two_to_the_k_makes_no_difference(pruner: Pruner, allocation: Spread, model: Model) -> None:
    plain = found(pruner, allocation, model, 0.5)
    for power in (-20, -6, -1, 1, 8):
        scaled = model.replace(params={name: value * 2.0**power for name, value in model.items()})
        assert found(pruner, allocation, scaled, 0.5) == plain


@every_pair
@given(model=models)
@several
def test_flipping_all_signs_makes_no_difference(pruner: Pruner, allocation: Spread, model: Model) -> None:
    flipped = model.replace(params={name: -value for name, value in model.items()})
    assert found(pruner, allocation, flipped, 0.5) == found(pruner, allocation, model, 0.5)


@of_scores
@given(model=models, sparsity=st.sampled_from([0.25, 0.5]))
@several
def test_nothing_kept_scores_lower_than_something_removed(
    pruner: Pruner, allocation: Spread, model: Model, sparsity: float
) -> None:
    assert pruner.criterion is not None
    masks = found(pruner, allocation, model, sparsity)
    scores = pruner.criterion(model, model.layers)
    groups = []
    for layer in model.layers:
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


@pairs(lambda p, a: p.criterion is not None and not a.structural and not (a.runs and p.grain == "channel"))
@pytest.mark.parametrize("seed", [0, 1])
def test_permuting_outputs_permutes_masks(pruner: Pruner, allocation: Spread, seed: int) -> None:
    params = distinct(seed)
    generator = torch.Generator().manual_seed(seed)
    order = {name: torch.randperm(len(value), generator=generator) for name, value in params.items()}
    order = {name: order[name.replace("bias", "weight")] for name in params}
    expected = {name: mask[order[name]] for name, mask in found(pruner, allocation, params, 0.5).items()}
    permuted = {name: value[order[name]] for name, value in params.items()}
    assert found(pruner, allocation, permuted, 0.5) == Masks(expected)


@pairs(lambda p, a: p.criterion is not None and not a.structural and not (a.runs and p.grain == "element"))
@given(model=models, seed=st.integers(0, 99))
@several
def test_permuting_inputs_leaves_channels_and_permutes_elements(
    pruner: Pruner, allocation: Spread, model: Model, seed: int
) -> None:
    exact = pruner.grain == "channel"
    params = dict(model) if exact else distinct(seed)
    generator = torch.Generator().manual_seed(seed)
    order = {n: torch.randperm(v.shape[1], generator=generator) for n, v in params.items() if v.ndim > 1}
    permuted = {name: value[:, order[name]] if name in order else value for name, value in params.items()}
    plain = found(pruner, allocation, params, 0.5)
    expected = plain if exact else Masks({name: mask[:, order[name]] for name, mask in plain.items()})
    assert found(pruner, allocation, permuted, 0.5) == expected


@every_pair
@given(model=models)
@several
def test_no_layer_is_emptied(pruner: Pruner, allocation: Spread, model: Model) -> None:
    masks = found(pruner, allocation, model, allocation.most)
    for name, mask in masks.items():
        assert mask.any(), name
    if not allocation.shared and allocation.most == 0.9:
        masks = found(pruner, allocation, model, 0.9999)
        assert all(mask.any() for mask in masks.values())


@every_pair
@given(model=models)
@several
def test_what_is_excluded_stays_dense(pruner: Pruner, allocation: Spread, model: Model) -> None:
    structure = STRUCTURE if allocation.structural else None
    rules = [{"sparsity": 0.5}, {"op_names": ["c"], "exclude": True}]
    masks = pruner.make(allocation.value).masks(model, rules, structure=structure)
    outputs = masks["c.weight"].expand(model["c.weight"].shape).flatten(1).any(dim=1) if "c.weight" in masks else None
    assert "c.bias" not in masks
    assert outputs is None or (allocation.structural and outputs.all())
