"""What joins, what does not, and what is refused before anything runs."""

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn

from fprune.compose import Pipeline, Schedule, Stage, schedule, stage
from fprune.config import Config
from fprune.errors import CompositionError, ConfigError, FpruneError, ModelError, ScheduleError
from fprune.masks import Masks
from fprune.records import Goal, TaskResult
from fprune.schedules import agp, one_shot
from fprune.stages import evaluate, finetune, nested, reset_weight, tap
from tests.unit import toys
from tests.unit.toys import look, remember, rows, score, smallest, steps, train

ALL = [
    agp,
    one_shot,
    evaluate,
    finetune,
    nested,
    reset_weight,
    tap,
    look,
    remember,
    rows,
    score,
    smallest,
    steps,
    train,
]
NAMES = {"Stage": Stage, **{value.__name__: value for value in ALL}}


@given(toys.schedules, toys.words, toys.words)
def test_stages_join_a_pipeline_in_any_grouping(s: Schedule, a: Stage, b: Stage) -> None:
    """L2: `(s | a) | b == s | (a | b)`."""
    assert (s | a) | b == s | (a | b)
    assert s | Stage() | a == s | a
    assert hash((s | a) | b) == hash(s | (a | b))


@given(toys.pipelines)
def test_repr_is_the_expression(pipeline: Pipeline) -> None:
    """L8: `eval(repr(p)) == p`."""
    assert eval(repr(pipeline), NAMES) == pipeline


def test_repr_reads_as_written() -> None:
    pipeline = agp(10) | smallest() | finetune(train) | nested(one_shot() | rows())
    assert repr(pipeline) == "agp(10) | smallest() | finetune(train) | nested(one_shot() | rows())"
    assert repr(one_shot().then(agp(3)) | Stage()) == "one_shot().then(agp(3)) | Stage()"


@given(toys.pipelines)
def test_pickle_and_copy_keep_pipelines_equal(pipeline: Pipeline) -> None:
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline
    assert copy.deepcopy(pipeline) == pipeline


def test_different_pipelines_differ() -> None:
    assert len({one_shot() | smallest(), one_shot() | rows(), agp(1) | smallest(), agp(2) | smallest()}) == 4
    assert smallest() | rows() != rows() | smallest()
    assert one_shot() | smallest() != smallest()


A, S, P = smallest(), one_shot(), one_shot() | smallest()
REFUSED = {
    "stage | schedule": (
        A,
        S,
        r"smallest\(\) \| one_shot\(\).*found stage and schedule\nhint: the schedule comes first",
    ),
    "pipeline | schedule": (P, S, "found pipeline and schedule\nhint: the schedule comes first"),
    "schedule | schedule": (S, S, r"hint: one after the other: one_shot\(\)\.then\(one_shot\(\)\)"),
    "pipeline | pipeline": (P, P, r"hint: .* nested\(one_shot\(\) \| smallest\(\)\)"),
    "stage | pipeline": (A, P, r"hint: .* nested\("),
    "schedule | pipeline": (S, P, r"hint: .* nested\("),
    "stage | function": (A, train, r"hint: lift train with @stage or @pruner, or wrap it: finetune\(train\)"),
    "schedule | function": (S, train, "hint: lift train"),
    "pipeline | function": (P, train, "hint: lift train"),
    "pipeline | lambda": (P, lambda r: r, "hint: lift <lambda>"),
    "function | stage": (train, A, "hint: lift train"),
    "function | schedule": (train, S, "hint: lift train"),
    "function | pipeline": (train, P, "hint: lift train"),
    "module | stage": (nn.Linear(1, 1), A, "hint: lift Linear"),
    "stage | number": (A, 3, "found stage and int"),
    "number | stage": (3, A, "found int and stage"),
    "number | pipeline": (3, P, "found int and pipeline"),
    "set | stage": ({1}, A, "found set and stage"),
    "pipeline | None": (P, None, "found pipeline and NoneType"),
    "stage | class": (A, nn.Linear, "found stage and function"),
    "class | stage": (nn.Linear, A, "found function and stage"),
    "stage | factory": (A, smallest, r"hint: call it: smallest\(\)"),
    "factory | stage": (agp, A, r"hint: call it: agp\(\)"),
    "factory | factory": (agp, smallest, r"hint: call it: agp\(\)"),
    "schedule | factory": (S, smallest, r"hint: call it: smallest\(\)"),
    "pipeline | factory": (P, smallest, r"hint: call it: smallest\(\)"),
    "function | factory": (train, smallest, r"hint: call it: smallest\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_at_the_bar(case: str) -> None:
    left, right, message = REFUSED[case]
    with pytest.raises(CompositionError, match=message):
        left | right


def test_a_lambda_is_never_taken_for_a_stage() -> None:
    with pytest.raises(TypeError):
        P | (lambda result: result)  # type: ignore[operator]


@stage(needs=("masks",))
def compacting(result: TaskResult) -> TaskResult:
    return result


@stage(needs=("example_inputs",))
def looking(result: TaskResult) -> TaskResult:
    return result


@stage(needs=("structure",))
def structural(result: TaskResult) -> TaskResult:
    return result


def test_a_pipeline_prunes() -> None:
    for pipeline in (one_shot() | Stage(), one_shot() | finetune(train) | evaluate(score)):
        with pytest.raises(CompositionError, match=r"prunes nothing\nhint: add one"):
            pipeline.stream(toys.net(), 0.5)
    given = {"0.weight": torch.arange(8)[:, None] > 1}
    assert (one_shot() | compacting()).run(toys.net(), 0.5, masks=given).masks == Masks(given)


@pytest.mark.parametrize(
    ("word", "need"),
    [
        (compacting() | smallest(), "masks"),
        (smallest() | looking(), "example_inputs"),
        (smallest() | structural(), "structure"),
    ],
)
def test_needs_are_met_in_order(word: Stage, need: str) -> None:
    pipeline = one_shot() | word
    for ask in (pipeline.stream, pipeline.run, pipeline.explain):
        with pytest.raises(CompositionError, match=rf"\(\) needs {need}, which nothing before it gives\nhint: \w+"):
            ask(toys.net(), 0.5)


def test_met_needs_pass() -> None:
    (one_shot() | smallest() | compacting()).stream(toys.net(), 0.5)
    (one_shot() | smallest() | looking()).stream(toys.net(), 0.5, example_inputs=toys.X)
    (one_shot() | compacting() | smallest()).stream(toys.net(), 0.5, masks={"3.bias": torch.ones(4, dtype=torch.bool)})


def test_a_schedule_that_reads_scores_needs_an_evaluation() -> None:
    with pytest.raises(CompositionError, match=r"until_bad\(0\) reads score, which no stage gives\nhint: .*evaluate"):
        (toys.until_bad(0) | smallest()).stream(toys.net(), 0.5)
    (toys.until_bad(0) | smallest() | evaluate(score)).stream(toys.net(), 0.5)


@pytest.mark.parametrize(
    ("error", "model", "config"),
    [
        (ConfigError, toys.net(), {"op_names": ["nope"], "sparsity": 0.5}),
        (ConfigError, toys.net(), 1.5),
        (ConfigError, toys.net(), None),
        (ModelError, nn.ReLU(), 0.5),
        (FpruneError, nn.Linear, 0.5),
        (FpruneError, "net", 0.5),
    ],
)
def test_names_and_models_are_checked_at_once(error: type[Exception], model: Any, config: Any) -> None:
    with pytest.raises(error):
        P.stream(model, config)


def test_names_in_goals_are_checked_at_once() -> None:
    @schedule
    def elsewhere(target: Config) -> Iterator[Goal]:
        yield Goal(target.scaled(0.5))
        yield Goal({"op_names": ["nope"], "sparsity": 0.6}, final=True)

    with pytest.raises(ConfigError, match="nope") as e:
        (elsewhere() | smallest()).stream(toys.net(), 0.5)
    assert "in elsewhere(), goal 1" in e.value.__notes__


def test_a_schedule_without_goals_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"steps\(\) has no goal"):
        (steps() | smallest()).stream(toys.net(), 0.5)


def test_masks_do_not_go_with_a_result() -> None:
    result = P.run(toys.net(), 0.5)
    with pytest.raises(ConfigError, match="a result brings its own masks along"):
        P.stream(result, masks={})


def test_stream_and_run_take_the_same_arguments() -> None:
    options = ["self", "model", "config", "example_inputs", "seed", "store", "masks", "executor"]
    assert list(inspect.signature(Pipeline.stream).parameters) == options
    assert list(inspect.signature(Pipeline.run).parameters) == [*options, "best", "keep_intermediate_result"]


def test_html_is_one_small_table() -> None:
    html = (toys.until_bad(0.5) | smallest() | evaluate(score))._repr_html_()
    assert html.count("<table") == 1
    for text in ("until_bad(0.5)", "smallest()", "evaluate(score)", "score", "masks"):
        assert text in html
    assert "<lambda>" not in (one_shot() | tap(lambda r: None))._repr_html_(), "names are escaped"
