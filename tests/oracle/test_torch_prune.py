"""Masks agree with `torch.nn.utils.prune` wherever that is defined: weights without ties."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fprune.allocate import globally
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import l1, l2, level

SPARSITIES = (0.0, 0.1, 0.29, 0.5, 0.8, 0.93)


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 20, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 10)
    )


def layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module.named_modules() if isinstance(child, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_level_is_l1_unstructured(sparsity: float, seed: int) -> None:
    module = net(seed)
    masks = level().masks(Model.from_module(module), sparsity)
    for name, child in layers(module):
        count = int(sparsity * child.weight.numel() + 1e-9)  # the peer rounds, so it is given the count
        prune.l1_unstructured(child, "weight", amount=count)
        assert torch.equal(masks[f"{name}.weight"], child.weight_mask.bool())


def prune_globally(module: nn.Module, sparsity: float) -> dict[str, torch.Tensor]:
    total = sum(child.weight.numel() for _, child in layers(module))
    prune.global_unstructured(
        [(child, "weight") for _, child in layers(module)],
        pruning_method=prune.L1Unstructured,
        amount=int(sparsity * total + 1e-9),
    )
    return {f"{name}.weight": child.weight_mask.bool() for name, child in layers(module)}


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_level_globally_is_global_unstructured(sparsity: float, seed: int) -> None:
    module = net(seed)
    masks = level(globally).masks(Model.from_module(module), sparsity)
    expected = prune_globally(module, sparsity)
    if all(mask.any() for mask in expected.values()):
        assert masks == Masks(expected)
    else:  # the peer empties a layer, which keeps its best weight here
        assert sparsity == SPARSITIES[-1]
        empty = [name for name, mask in expected.items() if not mask.any()]
        assert [int(masks[name].sum()) for name in empty] == [1] * len(empty)
        assert sum(int(mask.sum()) for mask in masks.values()) == sum(int(mask.sum()) for mask in expected.values())


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("pruner", "order"), [(l1, 1), (l2, 2)])
def test_norms_are_ln_structured(sparsity: float, pruner, order: int) -> None:
    module = net(3)
    masks = pruner().masks(Model.from_module(module), sparsity)
    for name, child in layers(module):
        count = int(sparsity * len(child.weight) + 1e-9)
        prune.ln_structured(child, "weight", amount=count, n=order, dim=0)
        expected = child.weight_mask.bool().flatten(1)[:, 0]
        assert torch.equal(masks[f"{name}.weight"].flatten(), expected)
        assert torch.equal(masks[f"{name}.bias"], expected)


def test_transposed_convolutions_are_pruned_along_dimension_1() -> None:
    torch.manual_seed(0)
    module = nn.ConvTranspose2d(4, 12, 3)
    masks = l1().masks(Model.from_module(module), 0.5)
    prune.ln_structured(module, "weight", amount=6, n=1, dim=1)
    assert torch.equal(masks["weight"].expand_as(module.weight_mask), module.weight_mask.bool())
