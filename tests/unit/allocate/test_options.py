"""Options of allocations: what they mean, how they print, compare and travel, and what is refused."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fprune import (
    Model,
    agp,
    block,
    dependency_aware,
    erk,
    globally,
    grasp,
    isomorphic,
    l1,
    lamp,
    level,
    owl,
    per_layer,
    speed_up,
    uniform_plus,
)
from fprune.config import Config
from fprune.counting import realised
from fprune.errors import ConfigError, ConfigTypeError, ScoreError
from fprune.scope import Scope
from tests.unit.allocate.test_axes import X, residual
from tests.unit.allocate.test_dependency_aware import gone, seeded

VALUES = [
    dependency_aware,
    dependency_aware(reduction="max"),
    dependency_aware(reduction="first", normalisation="none"),
    isomorphic,
    isomorphic(normalisation="max"),
    globally,
    per_layer,
    erk,
    uniform_plus,
    lamp,
    lamp(power=1),
    owl,
    owl(m=3.0),
    owl(lam=0.1),
    block(4, 2),
    block(4, 2, pooling="max"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_its_expression(value: Any) -> None:
    names = {name: globals()[name] for name in repr(value).replace("(", " ").split()[:1]}
    again = eval(repr(value), names)
    assert again == value == pickle.loads(pickle.dumps(value))
    assert hash(again) == hash(value)
    assert [other for other in VALUES if other == value] == [value]
    assert l1(value) == l1(again)
    assert pickle.loads(pickle.dumps(agp(2) | l1(value))) == agp(2) | l1(value)


def test_options_that_are_the_usual_ones_change_nothing() -> None:
    assert dependency_aware() == dependency_aware(reduction="mean", normalisation="mean") == dependency_aware
    assert lamp() == lamp(power=2) == lamp and owl() == owl(m=5.0, lam=0.08) == owl


NORMS = {"conv1.weight": [1, 6, 2, 9, 4, 5, 8, 7], "conv3.weight": [80, 10, 60, 20, 70, 30, 50, 40]}


def scaled() -> nn.Module:
    """The two layers that share their channels have the norms above; those of the second are ten times as large."""
    net = seeded(residual())
    with torch.no_grad():
        for name, norms in NORMS.items():
            weight = net.get_parameter(name)
            weight.copy_(torch.tensor(norms).view(-1, 1, 1, 1) / weight[0].numel() * torch.ones_like(weight))
    return net


def reduced(reduction: str, normalisation: str) -> list[float]:
    one, two = (np.array(norms, np.float64) for norms in NORMS.values())
    divide = {"mean": np.mean, "max": np.max, "none": lambda norms: 1.0}[normalisation]
    pair = np.stack([one / divide(one), two / divide(two)])
    return {"mean": pair.mean(0), "sum": pair.sum(0), "max": pair.max(0), "first": pair[0]}[reduction].tolist()


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "first"])
@pytest.mark.parametrize("normalisation", ["mean", "max", "none"])
def test_the_score_of_a_unit_is_what_the_options_say(reduction: Any, normalisation: Any) -> None:
    scores = reduced(reduction, normalisation)
    config = [{"op_names": ["conv1", "conv3"], "sparsity": 0.5}]
    found = dependency_aware(reduction=reduction, normalisation=normalisation)
    masks = l1(found).masks(Model.from_module(scaled()), config, example_inputs=(X,))
    assert gone(masks, "conv1.weight") == sorted(sorted(range(8), key=lambda i: (scores[i], i))[:4])


def test_units_that_are_alike_compete() -> None:
    net = nn.Sequential(*[nn.Linear(6, 6) for _ in range(4)])
    with torch.no_grad():
        for layer, scale in zip(net, (1.0, 5.0, 1.0, 1.0), strict=True):
            layer.weight.copy_(scale * (torch.arange(6.0)[:, None] + 1).expand(6, 6))
    model, x = Model.from_module(net), torch.ones(1, 6)
    config = [{"op_names": ["0", "1", "2"], "sparsity": 0.5}]
    relative = l1(isomorphic).masks(model, config, example_inputs=x)
    assert [len(gone(relative, f"{i}.weight")) for i in range(3)] == [3, 3, 3]
    absolute = l1(isomorphic(normalisation="none")).masks(model, config, example_inputs=x)
    assert [len(gone(absolute, f"{i}.weight")) for i in range(3)] == [5, 0, 4]


def test_kernels_of_other_sizes_are_not_alike() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        net[1].weight.mul_(100)
    config = [{"op_names": ["0", "1"], "sparsity": 0.5}]
    masks = l1(isomorphic(normalisation="none")).masks(
        Model.from_module(net), config, example_inputs=torch.ones(1, 3, 5, 5)
    )
    assert [len(gone(masks, f"{i}.weight")) for i in range(2)] == [3, 3]


def test_units_that_are_not_alike_do_not_compete() -> None:
    net = seeded(residual())
    with torch.no_grad():
        net.get_parameter("conv2.weight").mul_(100)
    config = [{"op_types": ["Conv2d"], "total_sparsity": 0.5}]
    masks = l1(isomorphic(normalisation="none")).masks(Model.from_module(net), config, example_inputs=(X,))
    assert (len(gone(masks, "conv1.weight")), len(gone(masks, "conv2.weight"))) == (4, 3)
    together = l1(dependency_aware(normalisation="none")).masks(Model.from_module(net), config, example_inputs=(X,))
    assert (len(gone(together, "conv1.weight")), len(gone(together, "conv2.weight"))) == (5, 1)


@pytest.mark.parametrize("allocation", [isomorphic, dependency_aware(reduction="max"), dependency_aware])
@pytest.mark.parametrize("key", ["sparsity", "total_sparsity"])
def test_compacting_every_round_is_compacting_at_the_end(allocation: Any, key: str) -> None:
    net, config = seeded(residual()), [{"op_types": ["Conv2d"], key: 0.6}]
    often = (agp(3) | l1(allocation) | speed_up()).run(net, config, example_inputs=(X,))
    masked = (agp(3) | l1(allocation)).run(net, config, example_inputs=(X,))
    assert often.report.channels == masked.report.channels
    assert often.lineage.kept["conv1.weight"][0].tolist() == alive(masked.masks["conv1.weight"])


def alive(mask: Tensor) -> list[int]:
    return mask.flatten(1).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("allocation", [erk, lamp, owl(m=1.2), uniform_plus, block(2, 2)])
def test_rounds_on_a_model_that_lost_channels_keep_to_the_original_counts(allocation: Any) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    half = [{"op_names": ["0", "2"], "sparsity": 0.5}]
    first = (agp(1) | l1(dependency_aware) | speed_up()).run(seeded(net), half, example_inputs=torch.ones(1, 6))
    scope, blocks = Scope.from_result(first), isinstance(allocation, type(block(2, 2)))
    masks = level.fn(scope, Config(0.75 if blocks else 0.7), allocation)
    if blocks:
        for name, mask in masks.items():
            rows, columns = first.origin[name].shape
            whole = first.lineage.expand({name: mask})[name].reshape(rows // 2, 2, columns // 2, 2)
            assert int((~whole.any(3).any(1)).sum()) == rows * columns // 4 * 3 // 4
    else:
        _, elements = realised(first.origin.layers, first.model, masks, first.lineage)
        assert sum(part.removed for part in elements.values()) == 100


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        (lambda: dependency_aware(reduction="median"), ConfigError, "reduction: expected one of 'mean', 'sum'"),
        (lambda: isomorphic(normalisation="l2"), ConfigError, "normalisation: expected one of 'mean', 'max'"),
        (lambda: lamp(power=0), ConfigError, "positive power, got 0"),
        (lambda: lamp(power="2"), ConfigTypeError, "positive power, got '2'"),
        (lambda: owl(m=-1.0), ConfigError, "positive number for m, got -1.0"),
        (lambda: owl(lam=True), ConfigTypeError, "positive number for lam, got True"),
        (lambda: block(0, 4), ConfigError, "a of 1 or more, got 0"),
        (lambda: block(4, 1.5), ConfigTypeError, "an int for b, got 1.5"),
        (lambda: block(4, 4, pooling="mean"), ConfigError, "pooling 'sum' or 'max', got 'mean'"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        make()
    assert "hint: " in str(caught.value)


@pytest.mark.parametrize(
    ("allocation", "shape", "told"),
    [
        (block(3, 2), (8, 4), "8 output channels of a group, not a multiple of 3"),
        (block(2, 3), (8, 4), "4 input channels of a group, not a multiple of 3"),
        (block(2, 2), (8,), r"the shape \(8,\), and a block is of outputs by inputs"),
    ],
)
def test_weights_that_do_not_fall_into_blocks_are_refused(allocation: Any, shape: tuple[int, ...], told: str) -> None:
    rule = {"op_names": ["w"], "sparsity": 0.5}
    with pytest.raises(ConfigError, match=told):
        level(allocation).masks({"w": torch.ones(shape)}, [rule])


def test_lamp_refuses_scores_with_a_sign() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ScoreError, match="negative scores"):
        grasp(lambda model, x: model(x).square().sum(), [torch.ones(2, 3)], lamp).masks(Model.from_module(net), 0.5)
