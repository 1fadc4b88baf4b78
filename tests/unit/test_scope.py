"""Scope: what a pruner sees."""

import pytest
import torch
from torch import nn

from fprune import tree
from fprune.config import Config
from fprune.errors import ModelError
from fprune.inputs import inputs
from fprune.layers import layers_of
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.scope import Scope
from fprune.tree import Flat


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Linear(5, 2))


@pytest.fixture
def model() -> Model:
    return Model.from_module(network())


def test_of_a_scope_is_the_scope(model: Model) -> None:
    scope = Scope.of(model, seed=3)
    assert Scope.of(scope) is scope


def test_of_a_model_knows_its_layers_and_can_call_it(model: Model) -> None:
    scope = Scope.of(model, seed=3, example_inputs=torch.ones(1, 3, 8, 8))
    assert scope.model is model
    assert scope.layers == model.layers
    assert scope.example_inputs == inputs(torch.ones(1, 3, 8, 8))
    assert list(scope) == list(model)
    assert len(scope) == len(model)
    assert scope["0.weight"] is model["0.weight"]


def test_of_a_plain_mapping_inherits_nothing() -> None:
    params = {"a.weight": torch.ones(4, 3), "a.bias": torch.ones(4)}
    scope = Scope.of(params)
    assert (scope.model, scope.lineage, scope.masks, scope.structure, scope.seed) == (None, None, Masks(), None, 0)
    assert scope.layers == layers_of(params)
    (layer,) = scope.layers
    assert scope.alive_units(layer).tolist() == [True] * 4
    assert scope.alive(layer).tolist() == [[True]]
    assert (scope.original_units(layer), scope.original_elements(layer), scope.gone_units(layer)) == (4, 12, 0)


def test_masks_must_fit(model: Model) -> None:
    with pytest.raises(ModelError, match=r"1\.wieght"):
        Scope.of(model, masks=Masks({"1.wieght": torch.tensor([True])}))


def test_alive_units_under_masks(model: Model) -> None:
    filters = torch.tensor([True, False, True, True]).reshape(4, 1, 1, 1)
    units = torch.ones(4, 3, 1, 1, dtype=torch.bool)
    units[2:, 1] = False  # the second group of the transposed convolution loses its middle unit
    scope = Scope.of(model, masks=Masks({"0.weight": filters, "1.weight": units}))
    conv, up, fc = scope.layers
    assert scope.alive_units(conv).tolist() == [True, False, True, True]
    assert scope.alive_units(up).tolist() == [True, True, True, True, False, True]
    assert scope.alive_units(fc).tolist() == [True, True]
    assert scope.alive(conv) is scope.masks["0.weight"]
    assert torch.broadcast_shapes(scope.alive(fc).shape, fc.shape) == fc.shape


def test_originals_come_from_the_lineage() -> None:
    small = Model.from_module(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ConvTranspose2d(2, 3, 2, groups=1), nn.Linear(5, 2)))
    index = torch.tensor([0, 3])
    lineage = Lineage(
        Lineage.identity(Model.from_module(network())).shapes,
        Flat(
            {
                "0.weight": (index, None, None, None),
                "0.bias": (index,),
                "1.weight": (torch.tensor([0, 1]), None, None, None),
                "1.bias": (torch.tensor([0, 1, 2]),),
            }
        ),
    )
    scope = Scope.of(small, lineage=lineage)
    conv, up, fc = scope.layers
    assert [scope.original_units(layer) for layer in (conv, up, fc)] == [4, 6, 2]
    assert [scope.gone_units(layer) for layer in (conv, up, fc)] == [2, 3, 0]
    assert [scope.original_elements(layer) for layer in (conv, up, fc)] == [4 * 27, 4 * 3 * 4, 10]


def test_from_result_sees_the_round(model: Model) -> None:
    result = TaskResult.start(model, 0.5, seed=5, example_inputs=torch.ones(1, 3, 8, 8)).next(Goal(0.25))
    masks = Masks({"0.weight": torch.tensor([True, False, True, True]).reshape(4, 1, 1, 1)})
    result = result.replace(masks=masks, structure="trace")
    scope = Scope.from_result(result)
    assert (scope.model, scope.masks, scope.lineage) == (result.model, masks, result.lineage)
    assert (scope.structure, scope.seed, scope.example_inputs) == ("trace", 5, result.task.example_inputs)
    assert Scope.from_result(result, seed=9).seed == 9


def test_plan_is_that_of_the_model(model: Model) -> None:
    config = Config([{"op_types": ["ConvTranspose2d"], "sparsity": 0.5}])
    assert Scope.of(model).plan(config) == config.resolve(model) == config.resolve(Scope.of(model))
    frozen = network().requires_grad_(False)
    (row,) = Scope.of(Model.from_module(frozen)).plan(config).selected
    assert row.note == "frozen (requires_grad=False)"


def test_values_and_texts(model: Model) -> None:
    scope = Scope.of(model, masks=Masks({"2.weight": torch.tensor([[True], [False]])}))
    assert scope == Scope.of(Model.from_module(model.to_module()), masks=scope.masks)
    assert scope != Scope.of(model)
    assert scope != dict(model)
    assert tree.same(scope, scope)
    assert repr(scope) == "Scope(6 params, 3 layers, masks of 1, seed=0)"
    assert "<td>1/2</td>" in scope._repr_html_()
    with pytest.raises(TypeError):
        hash(scope)
