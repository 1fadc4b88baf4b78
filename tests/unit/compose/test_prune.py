"""What a pruner's masks have to be, and what becomes of them."""

from typing import Any

import attrs
import pytest
import torch
from torch import nn

from fprune.allocate import dependency_aware
from fprune.compose import prune, pruner, stage
from fprune.errors import CompositionError, ModelError, StageError
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import l1
from fprune.records import Goal, TaskResult
from fprune.scope import Scope
from fprune.stages import finetune, speed_up
from fprune.trained import Trained
from tests.unit import toys


def start(**options: Any) -> TaskResult:
    return TaskResult.start(toys.net(), 0.5, **options).next(Goal(0.5))


def returning(value: object) -> Any:
    @pruner
    def given(params: object, config: object) -> Any:
        return value

    return given()


def test_masks_are_applied_and_kept() -> None:
    result = toys.smallest()(start())
    assert result.masks == toys.smallest().masks(start().model, 0.5)
    assert result.masks.apply(result.model) == result.model.params
    assert result.report.sparsity == 0.5


def test_masks_only_shrink() -> None:
    """L6: what an earlier round pruned stays pruned, whatever the pruner returns."""
    gone = torch.ones(8, 6, dtype=torch.bool)
    gone[0] = False
    result = returning(Masks({"0.weight": ~gone}))(start(masks={"0.weight": gone | (torch.arange(6) > 2)}))
    assert result.masks["0.weight"][0].tolist() == [False] * 3 + [True] * 3
    assert not result.masks["0.weight"][1:].any()


def test_the_caller_keeps_its_masks() -> None:
    mine = {"0.weight": torch.ones(8, 6, dtype=torch.bool)}
    toys.smallest()(start(masks=mine))
    assert mine["0.weight"].all()


@pytest.mark.parametrize("value", [None, {"0.weight": torch.ones(8, 6, dtype=torch.bool)}, 3])
def test_a_pruner_returns_masks(value: object) -> None:
    with pytest.raises(StageError, match=r"given\(\) returned \w+, expected Masks"):
        returning(value)(start())
    with pytest.raises(StageError, match="expected Masks"):
        returning(value).masks(dict(toys.net().named_parameters()), 0.5)


def test_masks_of_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"0\.wieght.*\nhint: .*0\.weight"):
        returning(Masks({"0.wieght": torch.ones(1, dtype=torch.bool)}))(start())


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"0\.weight"):
        returning(Masks({"0.weight": torch.ones(5, 6, dtype=torch.bool)}))(start())


def test_emptying_a_weight_is_refused() -> None:
    with pytest.raises(StageError, match=r"masks all 32 elements of '3\.weight'.*\nhint: lower its sparsity"):
        returning(Masks({"3.weight": torch.zeros(4, 1, dtype=torch.bool)}))(start())


def test_two_pruners_that_empty_a_weight_together_are_refused() -> None:
    half = torch.arange(4)[:, None] < 2
    with pytest.raises(StageError, match=r"masks all 32 elements"):
        (returning(Masks({"3.weight": half})) | returning(Masks({"3.weight": ~half})))(start())


def test_a_pruner_sees_the_inherited_state() -> None:
    seen: list[Scope] = []

    @pruner
    def curious(params: Scope, config: object) -> Masks:
        seen.append(params)
        return Masks({})

    inherited = {"0.weight": torch.arange(8)[:, None] > 1}
    result = start(masks=inherited, example_inputs=toys.X, seed=4)
    (curious() | curious())(result)
    assert seen[0].masks == Masks(inherited)
    assert seen[0].model == result.model
    assert seen[0].lineage == result.lineage
    assert seen[0].example_inputs == Inputs.of(toys.X)
    assert seen[0].seed != seen[1].seed


def trained(**changes: Any) -> Trained:
    """A pruner's return value: doubled weights, running statistics of 1, half of the rows gone."""
    model = Model.from_module(toys.net())
    values = {name: 2 * value for name, value in model.items()}
    masks = Masks({"0.weight": torch.arange(8)[:, None] > 3})
    return Trained(masks, model.replace(values, {"1.running_mean": torch.ones(8)}), {"loss": 0.25, **changes})


def test_what_a_pruner_trained_becomes_the_model() -> None:
    state = start()
    result = returning(trained())(state.replace(metrics={"other": 1.0}))
    assert not result.model["0.weight"][:4].any()
    assert torch.equal(result.model["0.weight"][4:], 2 * state.model["0.weight"][4:])
    assert torch.equal(result.model["3.weight"], 2 * state.model["3.weight"])
    assert result.model.buffers["1.running_mean"].tolist() == [1.0] * 8
    assert dict(result.metrics) == {"other": 1.0, "loss": 0.25}
    assert result.report.metrics["loss"] == 0.25


def test_what_a_pruner_trained_is_zero_where_earlier_rounds_pruned() -> None:
    result = returning(trained())(start(masks={"0.weight": torch.arange(8)[:, None] != 7}))
    assert not result.model["0.weight"][[0, 1, 2, 3, 7]].any()
    assert result.model["0.weight"][4:7].any()


def test_outside_a_run_only_the_masks_of_a_training_pruner_come_back() -> None:
    assert returning(trained()).masks(start().model, 0.5) == trained().masks


@pytest.mark.parametrize("loss", [float("nan"), torch.tensor(1.0), "good"])
def test_metrics_of_a_training_pruner_are_finite_numbers(loss: Any) -> None:
    with pytest.raises(StageError, match=r"\['loss'\]"):
        returning(trained(loss=loss))(start())


def test_a_trained_model_keeps_its_names_and_shapes() -> None:
    other = attrs.evolve(trained(), model=Model.from_module(nn.Sequential(nn.Linear(6, 7))))
    with pytest.raises(ModelError, match=r"0\.(weight|bias)"):
        returning(other)(start())
    with pytest.raises(StageError, match=r"given\(\).*AttributeError"):
        returning(attrs.evolve(trained(), model=toys.net()))(start())


def test_trained_is_equal_by_value() -> None:
    assert trained() == trained()
    assert trained() != trained(loss=0.5)
    assert repr(trained()) == "Trained(Masks(0.weight=4/8 channels), Model(Sequential, 6 params, 108 elements))"


ROWS = torch.arange(8)[:, None]


@pruner(regrows=True)
def last_rows(params: object, config: object, first: int) -> Masks:
    return Masks({"0.weight": first <= ROWS})


def test_declared_regrowth_brings_masks_back() -> None:
    state = start(masks={"0.weight": ROWS < 4, "3.weight": torch.arange(4)[:, None] > 0})
    result = last_rows(3)(state)
    assert result.masks == Masks({"0.weight": ROWS >= 3}), "the masks returned are the masks, all of them"
    later = last_rows(1)(result)
    assert later.masks["0.weight"].sum() == 7
    assert not later.model["0.weight"][1:3].any(), "what comes back starts at the value it has: zero"
    assert last_rows(3).masks(state.model, 0.5, masks=state.masks) == Masks({"0.weight": ROWS >= 3})


def test_after_a_compaction_only_what_is_there_comes_back() -> None:
    config = [{"op_names": ["0"], "sparsity": 0.5}]
    state = TaskResult.start(toys.net(), config, example_inputs=toys.X).next(Goal(config))
    compact = (l1(dependency_aware) | speed_up())(state)

    @pruner(regrows=True)
    def everything(params: object, config: object) -> Masks:
        return Masks({})

    result = everything()(compact)
    assert (len(compact.model["0.weight"]), result.masks) == (4, Masks({}))
    assert result.report.channels["0.weight"].removed == 4


class Coupled:
    """Stands for an allocation that wants the structure of the model."""

    needs = frozenset({"example_inputs", "structure"})

    def __call__(self, *given: object) -> Masks:
        return Masks({})


@pruner
def coupled(params: Scope, config: object, allocation: Coupled) -> Masks:
    return Masks({"0.bias": torch.full((8,), params.structure == "structure")})


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """A tracer that only counts."""
    traced: list[Model] = []

    def trace(model: Model, example_inputs: object) -> str:
        traced.append(model)
        return "structure"

    monkeypatch.setattr(prune, "trace", trace)
    return traced


def test_structure_is_traced_once_while_shapes_stay(traces: list[Model]) -> None:
    pipeline = toys.steps(0.0, 0.5, 1.0) | finetune(toys.train) | coupled(Coupled())
    results = list(pipeline.stream(toys.net(), 0.5, example_inputs=toys.X))
    assert len(traces) == 1
    assert [result.structure for result in results] == ["structure"] * 3
    assert list(pipeline.stream(results[0])) == results[1:]
    assert len(traces) == 1, "a run that goes on from a result has its structure"


def test_structure_is_traced_before_anything_trains(traces: list[Model]) -> None:
    counts = []
    word = finetune(lambda module: counts.append(len(traces))) | coupled(Coupled())
    word(start(example_inputs=toys.X))
    assert counts == [1]


def test_structure_of_the_origin_is_traced_once_though_rounds_compact(traces: list[Model]) -> None:
    @stage
    def compacting(result: TaskResult) -> TaskResult:
        smaller = Model.from_module(nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 4)))
        kept = {"0.weight": (torch.arange(7), None)}
        lineage = type(result.lineage)(result.lineage.shapes, type(result.lineage.shapes)(kept))  # type: ignore[arg-type]
        return result.replace(model=smaller, masks=Masks({}), lineage=lineage)

    pipeline = toys.steps(0.2, 0.5, 1.0, start="origin") | coupled(Coupled()) | compacting()
    assert [r.structure for r in pipeline.stream(toys.net(), 0.5, example_inputs=toys.X)] == [None] * 3
    assert len(traces) == 1


def test_structure_needs_example_inputs(traces: list[Model]) -> None:
    with pytest.raises(CompositionError, match="example_inputs are not given"):
        coupled(Coupled())(start())
    with pytest.raises(CompositionError, match="needs the structure of a model, found a plain mapping"):
        coupled(Coupled()).masks(dict(toys.net().named_parameters()), 0.5)
    model = Model.from_module(toys.net())
    assert coupled(Coupled()).masks(model, 0.5, example_inputs=toys.X)["0.bias"].all()
    assert len(traces) == 1
    assert coupled(Coupled()).masks(model, 0.5, structure="structure")["0.bias"].all()
    assert len(traces) == 1


@pytest.mark.parametrize("params", [toys.net(), [torch.ones(2, 2)], torch.ones(2, 2)])
def test_masks_of_no_mapping_are_refused_with_what_to_pass(params: Any) -> None:
    with pytest.raises(ModelError, match=r"expected a Model or a mapping.*\nhint: .*from_module"):
        l1().masks(params, 0.5)
