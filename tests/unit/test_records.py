"""Goal, Report, Task and TaskResult: values, inheritance from round to round, reports."""

import copy
import pickle

import attrs
import pytest
import torch
from torch import nn

from fprune import tree
from fprune.config import Config
from fprune.errors import ConfigError, ConfigTypeError, ModelError
from fprune.inputs import inputs
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, Realised, Report, Task, TaskResult
from fprune.tree import Flat

CONFIG = Config([{"op_types": ["Linear"], "sparsity": 0.5}])


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def rows(*keep: int) -> torch.Tensor:
    return torch.tensor([[bool(k)] for k in keep])


@pytest.fixture
def start() -> TaskResult:
    torch.manual_seed(0)
    return TaskResult.start(network(), CONFIG, example_inputs=torch.ones(2, 3), seed=7)


def compacted(result: TaskResult) -> TaskResult:
    """The result after units 1 and 2 of the first layer were cut out, as a speed-up would leave it."""
    index = torch.tensor([0, 3])
    kept = {
        "0.weight": (index, None),
        "0.bias": (index,),
        **{f"1.{name}": (index,) for name in ("weight", "bias", "running_mean", "running_var")},
        "3.weight": (None, index),
    }
    cut = Lineage(Lineage.identity(result.model).shapes, Flat(kept), result.masks)
    model = Model.from_module(network(2))
    model = model.replace(cut.slice(result.model), cut.slice(result.model.buffers))
    return result.replace(model=model, masks=Masks(), lineage=result.lineage.then(cut))


def test_start_is_the_state_before_the_first_round(start: TaskResult) -> None:
    assert (start.index, start.history, start.score, start.task.seed) == (-1, (), None, 7)
    assert start.goal == Goal(CONFIG.scaled(0))
    assert start.origin is start.task.origin
    assert start.model == start.origin
    assert start.lineage.is_identity
    assert start.task.example_inputs == inputs(torch.ones(2, 3))
    assert [row.layer.name for row in start.task.plan.selected] == ["0", "3"]


def test_start_applies_the_masks_it_is_given_and_keeps_the_origin_whole() -> None:
    net = network()
    masks = {"0.weight": rows(1, 0, 1, 1)}
    result = TaskResult.start(net, CONFIG, masks=masks)
    assert result.masks == Masks(masks)
    assert not result.model["0.weight"][1].any()
    assert result.origin["0.weight"][1].any()
    assert result.report.channels["0.weight"] == Realised(1, 4)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"seed": True}, ConfigTypeError, r"seed: expected an int, got True \(bool\)"),
        ({"seed": 0.5}, ConfigTypeError, r"seed: expected an int, got 0.5 \(float\)"),
        ({"masks": {"0.weigth": rows(1)}}, ModelError, "0.weigth"),
        ({"config": [{"op_names": ["9"], "sparsity": 0.5}]}, ConfigError, "rule 0: no layer '9'"),
        ({"config": [{"op_types": ["Conv2d"], "sparsity": 0.5}]}, ConfigError, "no layer of type 'Conv2d'"),
    ],
)
def test_start_refuses_what_does_not_fit(changes: dict[str, object], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        TaskResult.start(network(), **{"config": CONFIG, **changes})  # type: ignore[arg-type]


def test_next_inherits_the_previous_round(start: TaskResult) -> None:
    first = start.next(Goal(0.25))
    assert (first.index, first.history) == (0, ())
    done = first.replace(masks=Masks({"0.weight": rows(1, 0, 1, 1)}), score=0.5, metrics={"loss": 1.0}, notes=("n",))
    second = done.next(Goal(0.5, final=True))
    assert (second.index, second.score, second.metrics, second.notes) == (1, None, Flat({}), ())
    assert second.goal == Goal(0.5, final=True)
    assert second.history == (done.report,)
    assert second.masks == second.task.masks == done.masks
    assert second.model is done.model
    assert second.task.plan is start.task.plan
    assert second.task.example_inputs is start.task.example_inputs
    assert second.next(Goal(0.5)).history == (done.report, second.report)


def test_next_from_the_origin_begins_anew_with_the_masks_of_the_start() -> None:
    masks = Masks({"0.weight": rows(1, 1, 1, 0)})
    start = TaskResult.start(network(), CONFIG, masks=masks)
    later = compacted(start.next(Goal(0.5)).replace(masks=Masks({"0.weight": rows(1, 0, 0, 1)})))
    again = later.next(Goal(0.5, start="origin"))
    assert again.masks == again.task.masks == masks
    assert again.model == start.model
    assert not again.model["0.weight"][3].any()
    assert again.lineage.is_identity
    assert again.task.lineage.is_identity
    assert again.history == (later.report,)
    onward = later.next(Goal(0.5))
    assert (onward.lineage, onward.model) == (later.lineage, later.model)


def test_a_trace_lives_as_long_as_the_shapes(start: TaskResult) -> None:
    traced = start.next(Goal(0.5)).replace(structure="trace")
    doubled = traced.model.replace({"0.weight": 2 * traced.model["0.weight"]})
    assert traced.replace(model=doubled).structure == "trace"
    small = compacted(traced)
    assert small.structure is None
    assert traced.replace(model=small.model, structure="new").structure == "new"
    assert traced.next(Goal(0.5)).structure == "trace"
    # The trace of a model that was not cut is one of the origin, and later rounds may start there.
    retraced = compacted(traced.next(Goal(0.5))).replace(structure="small")
    assert retraced.next(Goal(0.5)).structure == "small"
    assert retraced.next(Goal(0.5)).next(Goal(0.5, start="origin")).structure == "trace"
    assert small.next(Goal(0.5, start="origin")).structure is None
    # The trace of a cut model is not one of the origin.
    late = compacted(start.next(Goal(0.5))).replace(structure="small")
    assert late.next(Goal(0.5, start="origin")).structure is None


def test_report_counts_in_the_coordinates_of_the_origin(start: TaskResult) -> None:
    masked = start.next(Goal(0.5)).replace(masks=Masks({"0.weight": rows(1, 0, 0, 1)}), score=0.75)
    report = masked.report
    assert report.channels == Flat({"0.weight": Realised(2, 4), "3.weight": Realised(0, 2)})
    assert report.elements == Flat({"0.weight": Realised(6, 12), "3.weight": Realised(0, 8)})
    assert (report.sparsity, report.channel_sparsity) == (6 / 20, 2 / 6)
    cut = compacted(masked).report
    assert cut.channels == report.channels
    assert cut.elements == Flat({"0.weight": Realised(6, 12), "3.weight": Realised(4, 8)})
    assert (cut.index, cut.goal, cut.score) == (0, Goal(0.5), 0.75)


def test_masks_after_a_compaction_add_to_it(start: TaskResult) -> None:
    cut = compacted(start.next(Goal(0.5)).replace(masks=Masks({"0.weight": rows(1, 0, 0, 1)})))
    again = cut.next(Goal(0.75)).replace(masks=Masks({"0.weight": rows(0, 1)}))
    assert again.report.channels["0.weight"] == Realised(3, 4)
    assert again.report.elements["0.weight"] == Realised(9, 12)


def test_report_notes_say_what_is_unusual() -> None:
    net = network()
    net[3].requires_grad_(False)
    result = TaskResult.start(net, CONFIG).next(Goal(0.5))
    noted = result.replace(masks=Masks({"0.weight": rows(0, 0, 1, 0)}), notes=("speed_up: folded 1",))
    assert noted.report.notes == (
        "speed_up: folded 1",
        "3.weight is frozen (requires_grad=False)",
        "0.weight keeps its last channel",
    )
    assert not TaskResult.start(nn.Linear(3, 1), 0.5).report.notes, "a layer of one channel always keeps its last"


def test_metrics_are_one_flat_dict_of_floats(start: TaskResult) -> None:
    result = start.next(Goal(0.5)).replace(
        score=0.5, metrics={"train/loss": 2.0}, masks=Masks({"0.weight": rows(1, 0, 0, 1)})
    )
    logged = result.metrics_dict()
    assert {"round": 0.0, "score": 0.5, "metrics/train/loss": 2.0, "model/params": 34.0}.items() <= logged.items()
    assert logged["sparsity/elements"] == 0.3
    assert logged["channels/0.weight"] == logged["elements/0.weight"] == 0.5
    assert {type(value) for value in logged.values()} == {float}
    assert "score" not in start.metrics_dict()


def test_equality_is_by_value(start: TaskResult) -> None:
    other = TaskResult.start(start.model.to_module(), CONFIG, example_inputs=torch.ones(2, 3), seed=7)
    assert other == start
    assert other.task == start.task
    assert other.report == start.report
    for changes in (
        {"score": 0.5},
        {"metrics": {"a": 1.0}},
        {"notes": ("n",)},
        {"masks": Masks({"0.weight": rows(1, 1, 1, 0)})},
        {"model": start.model.replace({"0.bias": torch.full((4,), 9.0)})},
        {"task": attrs.evolve(start.task, seed=8)},
        {"task": attrs.evolve(start.task, goal=Goal(0.1))},
        {"task": attrs.evolve(start.task, origin_masks=Masks({"0.weight": rows(1, 1, 1, 0)}))},
        {"history": (start.report,)},
    ):
        assert start.replace(**changes) != start
    assert start.replace(structure="trace") == start, "a trace is derived data"
    assert start != "start"
    assert start.task != "task"
    assert start.report != "report"


def test_records_pickle_and_copy(start: TaskResult) -> None:
    result = start.next(Goal(0.5)).replace(score=1.0, masks=Masks({"0.weight": rows(1, 0, 0, 1)}))
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert twin == result
        assert twin.report == result.report
        assert twin.task.plan == result.task.plan


def test_records_are_frozen_and_not_hashable(start: TaskResult) -> None:
    for record, field in ((start, "score"), (start.task, "seed"), (start.report, "index"), (start.goal, "final")):
        with pytest.raises(AttributeError):
            setattr(record, field, 1)
    for record in (start, start.task, start.report):
        with pytest.raises(TypeError):
            hash(record)
    assert len({Goal(0.5), Goal(0.5), Goal(0.5, final=True)}) == 2


def test_goals_read_configs_and_check_their_start() -> None:
    assert Goal(0.5) == Goal(Config(0.5))
    assert eval(repr(Goal(0.5, start="origin", final=True))) == Goal(0.5, start="origin", final=True)
    with pytest.raises(ConfigTypeError, match="start: expected 'previous' or 'origin', got 'begin'"):
        Goal(0.5, start="begin")  # type: ignore[arg-type]


def test_texts_take_one_line(start: TaskResult) -> None:
    result = start.next(Goal(0.5)).replace(score=0.875, masks=Masks({"0.weight": rows(1, 0, 0, 1)}))
    assert repr(result) == "TaskResult(round 0, sparsity 0.3, channels 0.3333, score 0.875)"
    assert repr(result.report) == "Report(round 0, sparsity 0.3, channels 0.3333, score 0.875)"
    assert repr(start).startswith("TaskResult(start, ")
    for record in (result, result.task, result.report, result.goal):
        assert "\n" not in repr(record)
        assert record._repr_html_().count("<table>") == 1
    assert "<td>6/12</td>" in result._repr_html_()


def test_module_is_private_to_the_caller(start: TaskResult) -> None:
    module = start.module()
    with torch.no_grad():
        module.get_parameter("0.bias").fill_(9.0)
    assert not (start.model["0.bias"] == 9.0).any()


def test_maps_reach_every_tensor_and_nothing_else(start: TaskResult) -> None:
    result = compacted(start.next(Goal(0.5)).replace(masks=Masks({"0.weight": rows(1, 0, 0, 1)})))
    result = result.replace(masks=Masks({"0.weight": rows(1, 0)}), score=0.5)
    assert tree.map(lambda leaf: leaf, result) == result
    double = tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, result)
    assert isinstance(double, TaskResult)
    assert isinstance(double.task, Task)
    assert {value.dtype for value in double.model.values()} == {torch.float64}
    assert {value.dtype for value in double.origin.values()} == {torch.float64}
    assert double.task.example_inputs == inputs(torch.ones(2, 3, dtype=torch.float64))
    assert double.lineage == result.lineage
    assert double.report == result.report
    shapes = tree.map(lambda leaf: tuple(leaf.shape), result)
    assert shapes.masks["0.weight"] == (2, 1)
    assert shapes.model["0.weight"] == (2, 3)
    assert shapes.lineage.kept["3.weight"] == (None, (2,))


def test_each_registered_record_maps_to_its_own_class() -> None:
    model = Model.from_module(network())
    records = (
        Flat({"b": torch.zeros(1), "a": torch.ones(2)}),
        Masks({"w": rows(1, 0)}),
        model,
        Lineage.identity(model),
        Goal(0.5),
        Report(0, Goal(0.5), 0.5),
        inputs(torch.ones(1), [torch.zeros(2), "flag"], scale=2, mask={"m": torch.ones(1)}),
    )
    for record in records:
        seen: list[object] = []
        twin = tree.map(lambda leaf, seen=seen: (seen.append(leaf), leaf)[1], record)
        assert type(twin) is type(record)
        assert twin == record
        assert all(isinstance(leaf, torch.Tensor) for leaf in seen)
        # Two records of the same structure can be mapped together.
        assert tree.map(lambda a, b: a, record, copy.deepcopy(record) if record is not model else record) == record


def test_maps_over_records_of_different_structure_are_refused() -> None:
    with pytest.raises(ValueError, match=r"(?i)mismatch|node|expected"):
        tree.map(lambda a, b: a, Goal(0.5), Goal(0.6))
