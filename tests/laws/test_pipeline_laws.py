"""Laws of pipelines, over generated networks, pipelines and configs. Each test is named after the law it states."""

import copy
import pickle
import random as python_random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune import (
    Config,
    Goal,
    Stage,
    TaskResult,
    agp,
    dependency_aware,
    evaluate,
    finetune,
    l1,
    level,
    linear,
    random,
    speed_up,
    tap,
)
from fprune.errors import StageError
from fprune.testing import untouched
from fprune.tree import same
from tests.laws import strategies as s


def stream(pipeline: Any, case: s.Case, config: Any, seed: int = 0) -> Any:
    return pipeline.stream(case.net, config, example_inputs=case.inputs, seed=seed)


def problem(data: st.DataObject) -> tuple[s.Case, list[dict[str, Any]]]:
    case = data.draw(s.networks, label="network")
    return case, data.draw(s.configs(case), label="config")


# L1, L2: `|` is a monoid, and a schedule or pipeline takes stages from the left.


@given(s.words, s.words, s.words)
def test_stages_are_a_monoid(a: Stage, b: Stage, c: Stage) -> None:
    assert (a | b) | c == a | (b | c)
    assert Stage() | a == a == a | Stage()
    assert hash((a | b) | c) == hash(a | (b | c))
    assert repr((a | b) | c) == repr(a | (b | c))


@given(s.schedules, s.words, s.words)
def test_a_pipeline_takes_stages_in_any_grouping(schedule: Any, a: Stage, b: Stage) -> None:
    assert (schedule | a) | b == schedule | (a | b)
    assert schedule | Stage() | a == schedule | a


@given(st.data())
def test_a_word_does_what_its_letters_do_in_order(data: st.DataObject) -> None:
    case, config = problem(data)
    a, b = data.draw(s.layer_pruners), data.draw(s.fillers)
    start = TaskResult.start(case.net, config, example_inputs=case.inputs, seed=3).next(Goal(config, final=True))
    assert same((a | b)(start), b(a(start)))
    assert same((b | a)(start), a(b(start)))
    assert same(Stage()(start), start)


# L3, L4, L13: a stream is a lazy value.


@given(st.data(), st.integers(0, 3))
def test_same_seed_same_stream(data: st.DataObject, seed: int) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    described = stream(pipeline, case, config, seed)
    torch.manual_seed(1)
    first = list(described)
    torch.manual_seed(2)
    assert same(first, list(described)), "iterating a stream twice gives two different streams"
    assert same(first, list(stream(pipeline, case, config, seed))), "describing it again gives a different stream"


def test_another_seed_is_another_stream() -> None:
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    runs = [(agp(1) | random()).run(net, 0.5, seed=seed) for seed in (0, 1)]
    assert not same(runs[0].masks, runs[1].masks)


@given(st.data())
def test_a_stream_continues_from_any_of_its_results(data: st.DataObject) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    whole = list(stream(pipeline, case, config, seed=5))
    for k, result in enumerate(whole):
        assert same(list(pipeline.stream(result)), whole[k + 1 :]), f"continuing after round {k} gives other results"


@given(st.data())
def test_taking_k_items_runs_k_rounds(data: st.DataObject) -> None:
    case, config = problem(data)
    seen: list[int] = []
    pipeline = data.draw(s.schedules) | data.draw(s.stages()) | tap(lambda result: seen.append(result.index))
    described = stream(pipeline, case, config)
    assert repr(described), "a stream has a repr"
    assert not seen, "describing a stream runs nothing"
    items = iter(described)
    assert not seen, "asking for an iterator runs nothing"
    for k, result in enumerate(items):
        assert result.index == k
        assert seen == list(range(k + 1)), f"{k + 1} items were taken and rounds {seen} have run"


# L5 and purity: nothing the caller owns changes, on success and on every error.


@given(st.data(), st.booleans())
def test_a_run_changes_nothing_of_the_callers(data: st.DataObject, training: bool) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    case.net.train(training)
    next(case.net.parameters()).requires_grad_(False)
    handle = case.net.register_forward_hook(lambda *_: None)
    with untouched(case.net, config, case.inputs):
        stream(pipeline, case, config)
        list(stream(pipeline, case, config))
    handle.remove()


class Failing:
    """Draws random numbers, changes every global it can reach, breaks the module, and raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, module: nn.Module) -> float:
        torch.manual_seed(99)
        torch.rand(3), python_random.random(), np.random.random()
        torch.set_grad_enabled(not torch.is_grad_enabled())
        torch.set_default_dtype(torch.float64)
        module.train()
        with torch.no_grad():
            for value in module.parameters():
                value.zero_()
        raise self.error


@given(st.data(), st.sampled_from([finetune, evaluate, tap]), st.booleans())
def test_an_error_changes_nothing_of_the_callers(
    data: st.DataObject, stage: Callable[[Any], Stage], interrupted: bool
) -> None:
    case, config = problem(data)
    error: BaseException = KeyboardInterrupt() if interrupted else ValueError("no")
    failing: Any = _raiser(error) if stage is tap else Failing(error)
    pipeline = data.draw(s.schedules) | data.draw(s.coupled_pruners) | stage(failing) | speed_up()
    with untouched(case.net, config, case.inputs), pytest.raises(KeyboardInterrupt if interrupted else StageError):
        list(stream(pipeline, case, config))


def _raiser(error: BaseException) -> Callable[[Any], None]:
    def fails(result: Any) -> None:
        raise error

    return fails


@given(st.data())
def test_refused_arguments_change_nothing_of_the_callers(data: st.DataObject) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    wrong: list[Any] = [
        [{"op_types": ["Conv9d"], "sparsity": 0.5}],
        [{"op_names": ["nowhere"], "sparsity": 0.5}],
        [{"sparsity": 1.5}],
        [],
        [*config, {"sparsty": 0.5}],
    ]
    for bad in wrong:
        with untouched(case.net, bad, case.inputs), pytest.raises(ValueError, match="hint:"):
            stream(pipeline, case, bad)


# L6: masks only shrink.


@given(st.data())
def test_masks_only_shrink(data: st.DataObject) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    earlier = None
    for result in stream(pipeline, case, config):
        now = result.lineage.expand_masks(result.masks)
        if earlier is not None:
            assert now.shrinks(earlier), f"round {result.index} kept something that an earlier round removed"
        earlier = now


@given(st.data())
def test_masks_shrink_although_a_pruner_forgets_them(data: st.DataObject) -> None:
    case, config = problem(data)
    first, *others = stream(linear(3) | s.fickle() | data.draw(s.fillers), case, config)
    for result in others:
        assert result.masks.shrinks(first.masks), f"round {result.index} kept something that an earlier round removed"


@given(st.data())
def test_pruned_weights_are_zero(data: st.DataObject) -> None:
    case, config = problem(data)
    for result in stream(data.draw(s.pipelines()), case, config):
        assert same(dict(result.masks.apply(result.model)), dict(result.model)), (
            "a weight under a zero mask is not zero"
        )


# L7: a schedule is a function of history alone.


@given(st.data())
def test_a_schedule_is_a_function_of_history(data: st.DataObject) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.pipelines())
    results = list(stream(pipeline, case, config))
    reports = [result.report for result in results]
    target = Config.of(config)
    goals = [result.goal for result in results]
    for k in data.draw(st.permutations(range(len(goals)))):
        for history in (reports[:k], tuple(reports[:k]), pickle.loads(pickle.dumps(reports[:k]))):
            assert pipeline.schedule.goal(target, history) == goals[k], f"round {k} asked later gives another goal"
    assert pipeline.schedule.goal(target, reports) is None, "after its last round a schedule is over"
    assert goals[-1].final and goals[-1].config == target, "the last goal is the target itself"


# L8: a pipeline's repr is the expression that builds it.


@given(s.pipelines())
def test_repr_is_the_expression(pipeline: Any) -> None:
    assert eval(repr(pipeline), dict(s.NAMES)) == pipeline


@given(s.words)
def test_repr_of_a_word_is_the_expression(word: Stage) -> None:
    assert eval(repr(word), dict(s.NAMES)) == word


@given(s.pipelines())
def test_a_pipeline_survives_pickle_and_copy(pipeline: Any) -> None:
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline
    assert copy.deepcopy(pipeline) == pipeline


# L9 for whole runs: every round removes exactly what its goal asks for, counted in the original network.


@given(st.data())
def test_every_round_removes_exactly_what_its_goal_asks(data: st.DataObject) -> None:
    case = data.draw(s.networks, label="network")
    sparsity = data.draw(s.sparsities)
    pruner = data.draw(st.sampled_from([level(), l1(), l1(dependency_aware)]))
    config = [{"op_names": list(case.layers), "sparsity": sparsity}]
    for result in stream(data.draw(s.schedules) | pruner, case, config):
        plan = result.goal.config.resolve(result.origin)
        counts = result.report.elements if pruner == level() else result.report.channels
        for row in plan.selected:
            realised = counts[row.layer.weight]
            asked = min(int(row.sparsity * realised.total + 1e-9), realised.total - 1)
            assert realised.removed == asked, f"{row.layer.name}: {realised} where {asked} were asked for"


def test_counts_are_exactly_right_despite_rounding() -> None:
    net = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 2))
    assert int(0.29 * 100) == 28, "the product that a plain int() gets wrong"
    for pruner in (l1(), l1(dependency_aware), random(granularity="channel")):
        config = [{"op_names": ["0"], "sparsity": 0.29}]
        report = (agp(2) | pruner).run(net, config, example_inputs=(torch.ones(1, 3),)).report
        assert report.channels["0.weight"].removed == 29


# L14: compacting every round and compacting at the end are the same.


@given(st.data())
def test_compacting_every_round_is_compacting_at_the_end(data: st.DataObject) -> None:
    case, config = problem(data)
    schedule, pruner = data.draw(s.schedules), data.draw(s.coupled_pruners)
    middle = data.draw(st.sampled_from([Stage(), finetune(s.step)]))
    every = list(stream(schedule | pruner | middle | speed_up(), case, config))[-1]
    last = list(stream(schedule | pruner | middle, case, config))[-1]
    once = speed_up()(last)
    assert same(every.lineage, once.lineage), "another set of channels was kept"
    assert same(every.model.params, once.model.params)
    assert same(every.model.buffers, once.model.buffers)
    x = s.example(case.net)
    with torch.no_grad():
        masked, compact = last.module().eval()(x), every.module().eval()(x)
    assert torch.equal(masked, compact), f"masked and compact differ by {(masked - compact).abs().max()}"


@given(st.data())
def test_order_of_speed_up_and_training_does_not_change_what_is_kept(data: st.DataObject) -> None:
    case, config = problem(data)
    schedule, pruner = data.draw(s.schedules), data.draw(s.coupled_pruners)
    early = list(stream(schedule | pruner | speed_up() | finetune(s.step), case, config))[-1]
    late = list(stream(schedule | pruner | finetune(s.step) | speed_up(), case, config))[-1]
    assert same(early.lineage, late.lineage)
    assert same(early.model.params, late.model.params)
