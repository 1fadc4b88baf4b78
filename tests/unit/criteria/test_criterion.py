"""What every criterion gets for free: grains, inherited masks, checks, equality and a readable repr."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fprune.criteria import Criterion, channel_norm, criterion, magnitude, uniform
from fprune.errors import ConfigTypeError, ModelError, ScoreError
from fprune.layers import Layer, layers_of
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope


@criterion(grain="channel")
def first_column(rows: Tensor, factor: float = 1.0) -> Tensor:
    return factor * rows[:, 0]


@criterion(grain="channel")
def size_of_layer(rows: Tensor) -> Tensor:
    return torch.full((len(rows),), float(len(rows)))


@criterion(grain="element")
def itself(weight: Tensor) -> Tensor:
    return weight


def score(found: Criterion, params: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    return found(params, layers_of(params), **options)


def test_repr_is_the_expression_and_equality_is_structural() -> None:
    assert repr(first_column(2.0)) == "first_column(factor=2.0)"
    assert repr(magnitude()) == "magnitude(p=1)"
    assert first_column() == first_column(1.0) == first_column(factor=1.0)
    assert first_column() != first_column(2.0)
    assert first_column() != size_of_layer()
    assert len({first_column(), first_column(1.0)}) == 1
    assert copy.deepcopy(first_column(2.0)) == first_column(2.0)


def test_options_are_checked_when_the_criterion_is_made() -> None:
    with pytest.raises(ConfigTypeError, match=r"first_column: got an unexpected keyword argument 'fcator'"):
        first_column(fcator=2.0)


def test_elements_sum_up_to_channels() -> None:
    params = {"w": torch.tensor([[3.0, -1.0], [0.5, 0.5]])}
    assert score(magnitude(), params, grain="channel")["w"].tolist() == [4.0, 1.0]


def test_channels_spread_to_elements() -> None:
    params = {"w": torch.arange(12.0).reshape(2, 3, 2)}
    assert score(first_column(), params, grain="element")["w"].tolist() == [[[0.0] * 2] * 3, [[6.0] * 2] * 3]


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_their_units_along_axis_1(groups: int) -> None:
    net = nn.ConvTranspose2d(4, 3 * groups, 2, groups=groups)
    model = Model.from_module(net)
    (layer,) = model.layers
    channels = channel_norm(p=1)(model, [layer])["weight"]
    weight = net.weight.detach()
    expected = [
        weight[g * (4 // groups) : (g + 1) * (4 // groups), unit].abs().sum()
        for g in range(groups)
        for unit in range(3)
    ]
    assert torch.allclose(channels, torch.stack(expected))
    elements = channel_norm(p=1)(model, [layer], grain="element")["weight"]
    for g in range(groups):
        for unit in range(3):
            part = elements[g * (4 // groups) : (g + 1) * (4 // groups), unit]
            assert (part == channels[3 * g + unit]).all()
    back = magnitude()(model, [layer], grain="channel")["weight"]
    assert torch.allclose(back, channels)


def test_channel_criteria_see_only_units_that_are_alive() -> None:
    params = {"w": torch.arange(8.0).reshape(4, 2)}
    masks = Masks({"w": torch.tensor([[True], [False], [True], [True]])})
    scope = Scope.of(params, masks=masks)
    assert size_of_layer()(scope, scope.layers)["w"].tolist() == [3.0, -math.inf, 3.0, 3.0]
    assert first_column()(scope, scope.layers)["w"].tolist() == [0.0, -math.inf, 4.0, 6.0]


def test_masked_elements_read_as_zero_and_score_lowest() -> None:
    params = {"w": torch.tensor([[5.0, math.nan], [1.0, -2.0]])}
    masks = Masks({"w": torch.tensor([[True, False], [True, True]])})
    scope = Scope.of(params, masks=masks)
    assert magnitude()(scope, scope.layers)["w"].tolist() == [[5.0, -math.inf], [1.0, 2.0]]
    assert magnitude()(scope, scope.layers, grain="channel")["w"].tolist() == [5.0, 3.0]
    assert channel_norm(p=1)(scope, scope.layers)["w"].tolist() == [5.0, 3.0]
    assert channel_norm(p=1)(scope, scope.layers, grain="element")["w"].tolist() == [[5.0, -math.inf], [3.0, 3.0]]


def test_dead_elements_do_not_count_in_the_sum_of_a_criterion_that_scores_them() -> None:
    @criterion(grain="element", reads="scope")
    def ones(scope: Scope, layers: tuple[Layer, ...], grain: str) -> dict[str, Tensor]:
        return {layer.weight: torch.ones(layer.shape) for layer in layers}

    masks = Masks({"w": torch.tensor([[True, False], [False, False]])})
    scope = Scope.of({"w": torch.zeros(2, 2)}, masks=masks)
    assert ones()(scope, scope.layers, grain="channel")["w"].tolist() == [1.0, -math.inf]


def test_a_layer_without_any_unit_alive_is_scored() -> None:
    scope = Scope.of({"w": torch.ones(2, 2)}, masks=Masks({"w": torch.zeros(2, 1, dtype=torch.bool)}))
    assert first_column()(scope, scope.layers)["w"].tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    weight = torch.full((2, 3000), 30.0).to(dtype)  # a sum beyond what float16 holds
    weight[1, 0] = 31.0
    scores = score(channel_norm(p=1), {"w": weight})["w"]
    assert scores.dtype == torch.float32
    assert scores.tolist() == [90000.0, 90001.0]


def test_float64_stays() -> None:
    assert score(magnitude(), {"w": torch.ones(2, 2, dtype=torch.float64)})["w"].dtype == torch.float64


def test_integer_scores_become_floats() -> None:
    @criterion(grain="channel")
    def counted(rows: Tensor) -> Tensor:
        return (rows != 0).sum(dim=1)

    assert score(counted(), {"w": torch.tensor([[1.0, 0.0], [1.0, 2.0]])})["w"].tolist() == [1.0, 2.0]


def test_non_finite_weights_name_the_first_place() -> None:
    weight = torch.ones(4, 3, 3)
    weight[2, 0, 1], weight[3, 1, 1], weight[3, 2, 2] = math.nan, math.inf, -math.inf
    with pytest.raises(ModelError, match=r"'conv1\.weight' has 3 non-finite values \(first at \[2,0,1\]\)"):
        score(magnitude(), {"conv1.weight": weight})
    with pytest.raises(ModelError, match=r"3 non-finite"):
        score(uniform(), {"conv1.weight": weight})


def test_large_finite_weights_are_finite() -> None:
    params = {"w": torch.full((2, 2), 3e38)}
    assert score(magnitude(), params)["w"].tolist() == params["w"].tolist()  # their sum overflows, they do not


def test_non_finite_scores_name_the_criterion_and_the_weight() -> None:
    @criterion(grain="element")
    def inverse(weight: Tensor) -> Tensor:
        return 1 / weight

    with pytest.raises(ScoreError, match=r"inverse\(\) gave 1 non-finite value \(first at \[0,1\]\) for 'w'"):
        score(inverse(), {"w": torch.tensor([[1.0, 0.0]])})


def test_scores_of_the_wrong_shape_or_type_are_refused() -> None:
    @criterion(grain="channel")
    def kept_dim(rows: Tensor) -> Tensor:
        return rows.sum(dim=1, keepdim=True)

    @criterion(grain="element")
    def nothing(weight: Tensor) -> Tensor:
        return None  # type: ignore[return-value]

    with pytest.raises(ScoreError, match=r"scores of shape \(2, 1\) for 'w', expected \(2,\)"):
        score(kept_dim(), {"w": torch.ones(2, 3)})
    with pytest.raises(ScoreError, match=r"nothing\(\) gave nothing for 'w'"):
        score(nothing(), {"w": torch.ones(2, 3)})

    @criterion(grain="element", reads="scope")
    def forgets(scope: Scope, layers: tuple[Layer, ...], grain: str) -> dict[str, Tensor]:
        return {}

    with pytest.raises(ScoreError, match=r"forgets\(\) gave nothing for 'w'"):
        score(forgets(), {"w": torch.ones(2, 3)})


def test_a_criterion_that_writes_to_the_weight_is_refused() -> None:
    @criterion(grain="channel")
    def destructive(rows: Tensor) -> Tensor:
        return rows.abs_().sum(dim=1)

    with pytest.raises(ScoreError, match=r"destructive\(\) changed the weight 'w' in place"):
        score(destructive(), {"w": torch.ones(2, 3)})


def test_a_criterion_may_return_the_weight_itself() -> None:
    params = {"w": torch.tensor([[-3.0, 2.0]])}
    assert score(itself(), params)["w"].tolist() == [[-3.0, 2.0]]
    assert params["w"].tolist() == [[-3.0, 2.0]]


@pytest.mark.parametrize(
    "weight",
    [torch.ones(2, 2, device="meta"), torch.ones(2, 2).to_sparse(), torch.ones(2, 2, dtype=torch.int64)],
    ids=["meta", "sparse", "int"],
)
def test_what_cannot_be_ranked_is_refused(weight: Tensor) -> None:
    (layer,) = layers_of({"w": torch.ones(2, 2)})
    with pytest.raises(ModelError, match=r"'w' is .* expected dense floating point numbers"):
        magnitude()({"w": weight}, [layer])


def test_parameters_that_train_and_inference_tensors_are_read() -> None:
    with torch.inference_mode():
        frozen = torch.ones(2, 2)
    trained = nn.Parameter(torch.ones(2, 2))
    for weight in (frozen, trained):
        found = score(magnitude(), {"w": weight})["w"]
        assert not found.requires_grad
        assert found.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_layers_are_scored_one_after_the_other() -> None:
    seen: list[str] = []

    @criterion(grain="element")
    def watched(weight: Tensor) -> Tensor:
        seen.append("scored")
        return weight

    params = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    scored = watched().each(params, layers_of(params))
    assert seen == []
    assert next(scored)[0].weight == "a"
    assert seen == ["scored"]
