"""Masks that are no complete units: rows alone, columns alone, single elements. Compaction is exact or keeps."""

import pytest
import torch

from fprune import Config, Masks, Model, compact, l1, level, per_layer
from fprune.layers import unit_mask
from fprune.structure import trace
from tests.zoo.case import Case
from tests.zoo.models import CASES, IMAGE, resnet18
from tests.zoo.support import Traced, disagreement, traced


def rows(made: Traced) -> Masks:
    return l1(per_layer).masks(made.model, Config.of(made.case.config(0.5)))


def elements(made: Traced) -> Masks:
    return level().masks(made.model, Config.of(made.case.config(0.5)))


def random_rows(made: Traced) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks(
        {layer.weight: unit_mask(some(layer.units, generator), layer) for layer in made.selected() if layer.units > 1}
    )


def columns(made: Traced) -> Masks:
    generator = torch.Generator().manual_seed(4)
    masks = {}
    for layer in made.selected():
        axis = 1 - layer.axis
        shape = [1] * len(layer.shape)
        shape[axis] = layer.shape[axis]
        if shape[axis] > 1:
            masks[layer.weight] = some(shape[axis], generator).view(shape)
    return Masks(masks)


def everything(made: Traced) -> Masks:
    """Random rows and random columns of every parameter: nothing about it is a unit."""
    generator = torch.Generator().manual_seed(5)
    masks = {}
    for name, param in made.model.items():
        mask = torch.ones([1] * param.dim(), dtype=torch.bool)
        for axis, size in enumerate(param.shape):
            if size > 1:
                shape = [1] * param.dim()
                shape[axis] = size
                mask = mask & some(size, generator, 0.8).view(shape)
        masks[name] = mask.expand(param.shape)
    return Masks(masks)


def some(size: int, generator: torch.Generator, share: float = 0.5) -> torch.Tensor:
    keep = torch.rand(size, generator=generator) < share
    keep[int(torch.randint(size, (1,), generator=generator))] = True
    return keep


@pytest.mark.parametrize("kind", [rows, random_rows, columns, elements, everything])
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_exact(name: str, kind):
    made = traced(name)
    masks = kind(made)
    masked, small = made.compacted(masks)
    assert disagreement(made.case, masked, small.model.to_module()) == {}
    assert small.model.num_params <= masked.num_params


@pytest.mark.parametrize(
    ("name", "layer", "gone"),
    [("mobilenet_v2", "features.0.0", 4), ("vgg_flatten", "features.0", 4), ("resnet20", "layer1.0.conv1", 4)],
)
def test_columns_alone_free_their_producer(name: str, layer: str, gone: int):
    """A channel that no consumer reads can go, even if its own filter was never masked."""
    made = traced(name)
    masks = made.masks(0.5)
    rows_of = f"{layer}.weight"
    alone = masks.without([key for key, mask in masks.items() if mask.dim() > 1 and key == rows_of])
    _, small = made.compacted(alone)
    assert made.model[rows_of].shape[0] - small.model[rows_of].shape[0] == gone


def test_the_only_channel_of_a_branch_stays():
    """Channel 0 is constant zero and could go, but the branch it alone makes would have no channel left."""
    made = traced("narrow_branch")
    keep = torch.arange(8) > 1
    masks = Masks({"conv.weight": keep.view(8, 1, 1, 1), "conv.bias": keep})
    masked, small = made.compacted(masks)
    assert disagreement(made.case, masked, small.model.to_module()) == {}
    assert small.model["conv.weight"].shape[0] == 7
    assert small.model["one.weight"].shape[1] == 1


def test_rows_alone_on_resnet18():
    """Every filter that is masked goes, whatever constant its BatchNorm leaves, but one of each family's.

    Nearly all constants enter padded convolutions: one channel stands in for those of its family.
    """
    case = Case("rows", resnet18, IMAGE, ("Conv2d",))
    model = Model.from_module(case.net())
    structure = trace(model, case.inputs())
    masks: dict[str, torch.Tensor] = {}
    asked = 0
    for family in structure.families:
        gone = slice(0, len(family) // 2)
        asked += len(family) // 2
        for part in family.slices:
            if part.dim == 0 and part.tensor in model and model[part.tensor].dim() == 4:
                ones = torch.ones(len(model[part.tensor]), 1, 1, 1, dtype=torch.bool)
                mask = masks.setdefault(part.tensor, ones)
                mask[torch.from_numpy(part.index[gone].reshape(-1))] = False
    masked = model.replace(Masks(masks).apply(model))
    small = compact(masked, Masks(masks), structure)
    assert (asked, len(structure.families)) == (1440, 12)
    assert sum(small.report.removed.values()) == 1440 - 12
    assert all("1 kept: it stands in for" in why for why in small.report.refused.values())
    assert disagreement(case, masked, small.model.to_module()) == {}
    again = compact(small.model, small.masks, small.structure)
    assert again.report.style == "unchanged"
