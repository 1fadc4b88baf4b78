"""Laws of schedules that look at results: lazy, replayed, seeded, pure, and the same on any executor."""

import pickle
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from fprune import Config
from fprune.setting import Setting
from fprune.tree import fold_in, same
from tests.laws import strategies as s
from tests.laws.test_pipeline_laws import problem, stream, untouched


@settings(max_examples=10)  # each example is several whole runs
@given(st.data(), st.integers(0, 3))
def test_a_search_is_seeded_pure_and_continues_anywhere(data: st.DataObject, seed: int) -> None:
    """L3, L4, L5."""
    case, config = problem(data)
    pipeline = data.draw(s.search_pipelines())
    with untouched(case.net, config, case.inputs):
        whole = list(stream(pipeline, case, config, seed))
    assert same(whole, list(stream(pipeline, case, config, seed)))
    k = data.draw(st.integers(0, len(whole) - 1))
    assert same(list(pipeline.stream(whole[k])), whole[k + 1 :]), f"continuing after round {k} gives other results"


@settings(max_examples=10)  # each example is several whole runs
@given(st.data())
def test_a_search_is_a_function_of_history(data: st.DataObject) -> None:
    """L7: a live generator, a fresh one, and one that was sent reports from a file give the same goals."""
    case, config = problem(data)
    pipeline = data.draw(s.search_pipelines())
    start, *_ = results = list(stream(pipeline, case, config))
    reports = [result.report for result in results]
    coupled = any(call.couples for call in pipeline.stage.calls)
    told = Setting.at(start, fold_in(start.task.seed, "schedule"), coupled=coupled)
    k = data.draw(st.integers(0, len(results) - 1))
    for history in (reports[:k], pickle.loads(pickle.dumps(reports[:k]))):
        assert pipeline.schedule.goal(Config.of(config), history, setting=told) == results[k].goal
    assert pipeline.schedule.goal(Config.of(config), reports, setting=told) is None


@settings(max_examples=10)  # each example is several whole runs
@given(st.data())
def test_rounds_that_do_not_look_at_one_another_run_on_an_executor(data: st.DataObject) -> None:
    case, config = problem(data)
    pipeline = data.draw(s.search_pipelines())
    serial = list(stream(pipeline, case, config))
    with ThreadPoolExecutor(2) as pool:
        ahead = list(pipeline.stream(case.net, config, example_inputs=case.inputs, seed=0, executor=pool))
    assert same(serial, ahead)


@given(s.search_pipelines())
def test_repr_is_the_expression(pipeline: object) -> None:
    """L8."""
    assert eval(repr(pipeline), dict(s.NAMES)) == pipeline
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline
