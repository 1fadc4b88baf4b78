"""Counting: against masks expanded to the original shape."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune.counting import Realised, alive_units, realised
from fprune.layers import Layer, unit_view
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.tree import Flat, generator

NET = nn.ModuleDict(
    {
        "conv": nn.Conv2d(4, 6, 3),
        "grouped": nn.Conv2d(4, 6, 3, groups=2),
        "up": nn.ConvTranspose2d(4, 6, 2),
        "upgrouped": nn.ConvTranspose2d(6, 4, 2, groups=2),
        "fc": nn.Linear(5, 3),
        "norm": nn.LayerNorm(4),
    }
)
MODEL = Model.from_module(NET)
LAYERS = {layer.name: layer for layer in MODEL.layers}


def expanded(masks: Masks, lineage: Lineage, layer: Layer) -> Tensor:
    """What is left of a layer, in full: the slow definition of what `realised` counts."""
    whole = lineage.expand_masks(masks)
    return whole[layer.weight].expand(layer.shape) if layer.weight in whole else torch.ones(layer.shape).bool()


def drawn_mask(shape: tuple[int, ...], seed: int, *what: str) -> Tensor | None:
    """A random mask that broadcasts to `shape`: full, along one axis, of lower rank, or none."""
    rng = generator(seed, *what)
    kind = int(torch.randint(0, 2 + len(shape), (), generator=rng))
    density = float(torch.rand((), generator=rng))
    if kind == 0:
        return None
    if kind == 1:
        return torch.rand(shape, generator=rng) < density
    axis = kind - 2
    reduced = [size if d == axis else 1 for d, size in enumerate(shape)]
    mask = torch.rand(reduced, generator=rng) < density
    return mask if axis == 0 or density < 0.5 else mask.reshape(reduced[axis:])


def drawn_masks(shapes: dict[str, tuple[int, ...]], seed: int, what: str) -> Masks:
    drawn = {name: drawn_mask(shape, seed, what, name) for name, shape in shapes.items()}
    return Masks({name: mask for name, mask in drawn.items() if mask is not None})


@given(st.integers(0, 2**40))
def test_counts_are_those_of_expanded_masks(seed: int) -> None:
    rng = generator(seed, "kept")
    kept: dict[str, tuple[Tensor | None, ...]] = {}
    for layer in LAYERS.values():
        # The groups of a grouped transposed convolution tie its axes together; its own test is below.
        dims = [d for d in range(len(layer.shape)) if bool(torch.rand((), generator=rng) < 0.4) and layer.groups == 1]
        if dims:
            picks = [torch.rand(size, generator=rng) < 0.6 for size in layer.shape]
            index = [pick.nonzero().flatten() if pick.any() else torch.tensor([0]) for pick in picks]
            kept[layer.weight] = tuple(index[d] if d in dims else None for d in range(len(layer.shape)))
    original = {layer.weight: layer.shape for layer in LAYERS.values()}
    lineage = Lineage(Flat(original), Flat(kept), drawn_masks(original, seed, "earlier"))
    shapes = {name: lineage.compact_shape(name) for name in original}
    masks = drawn_masks(shapes, seed, "now")
    channels, elements = realised(
        LAYERS.values(), {name: torch.empty(shape) for name, shape in shapes.items()}, masks, lineage
    )
    for layer in LAYERS.values():
        left = expanded(masks, lineage, layer)
        assert elements[layer.weight] == Realised(int((~left).sum()), left.numel()), layer.name
        gone = int((~unit_view(left, layer).any(1)).sum())
        assert channels[layer.weight] == Realised(gone, layer.units), layer.name


@given(st.integers(0, 2**40), st.sampled_from(sorted(LAYERS)))
def test_alive_units_are_those_of_the_expanded_mask(seed: int, name: str) -> None:
    layer = LAYERS[name]
    mask = drawn_mask(layer.shape, seed)
    if mask is not None:
        expected = unit_view(mask.expand(layer.shape), layer).any(1)
        assert torch.equal(alive_units(mask, layer), expected)


def test_whole_groups_of_a_transposed_convolution() -> None:
    small = Model.from_module(nn.ModuleDict({"upgrouped": nn.ConvTranspose2d(3, 2, 2, groups=1)}))
    lineage = Lineage(
        Flat({"upgrouped.weight": (6, 2, 2, 2), "upgrouped.bias": (4,)}),
        Flat({"upgrouped.weight": (torch.tensor([3, 4, 5]), None, None, None)}),
    )
    layer = LAYERS["upgrouped"]
    assert layer.units == 4
    channels, elements = realised([layer], small, Masks(), lineage)
    assert channels["upgrouped.weight"] == Realised(2, 4)
    assert elements["upgrouped.weight"] == Realised(24, 48)
    one = Masks({"upgrouped.weight": torch.tensor([True, False]).reshape(1, 2, 1, 1)})
    channels, elements = realised([layer], small, one, lineage)
    assert channels["upgrouped.weight"] == Realised(3, 4)
    assert elements["upgrouped.weight"] == Realised(36, 48)


def test_a_layer_that_compaction_removed_is_gone() -> None:
    channels, elements = realised([LAYERS["fc"]], {}, Masks(), Lineage.identity(MODEL))
    assert channels == {"fc.weight": Realised(3, 3)}
    assert elements == {"fc.weight": Realised(15, 15)}


def test_fractions() -> None:
    assert Realised(1, 4).fraction == 0.25
    assert Realised(0, 0).fraction == 0.0


def test_a_mask_without_elements() -> None:
    (layer,) = Model.from_module(nn.Linear(3, 2)).layers
    assert alive_units(torch.ones(2, 0, dtype=torch.bool), layer).tolist() == [False, False]


@pytest.mark.slow
def test_counting_takes_milliseconds_on_a_large_model() -> None:
    net = nn.ModuleList(nn.Conv2d(512, 512, 3, bias=False) for _ in range(5))
    model = Model.from_module(net)
    masks = Masks({name: torch.rand(512, 1, 1, 1) > 0.5 for name in model})
    lineage = Lineage.identity(model)
    started = time.process_time()
    for _ in range(10):
        realised(model.layers, model, masks, lineage)
    assert (time.process_time() - started) / 10 < 0.005
