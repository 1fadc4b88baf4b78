"""A stage sees what it declares to read, and what it made comes back without loss."""

from typing import Any

import attrs
import pytest

import fprune
from fprune import TaskResult, evaluate, level, lottery, nested, one_shot, stage, tap
from fprune.compose import Factory
from fprune.compose.reading import joined, shown
from fprune.errors import CompositionError
from fprune.records import Goal
from fprune.tree import Flat
from tests.unit.toys import net

LEVEL, TAP = level().calls[0], tap(print).calls[0]


@stage
def remark(result: TaskResult) -> TaskResult:
    """A stage that declares nothing, and so reads the whole record."""
    return result


def told() -> TaskResult:
    """A record in which everything that can be reported is."""
    start = TaskResult.start(net(), 0.5)
    state = start.next(Goal(0.25)).next(Goal(0.5, start="origin", final=True))
    return state.replace(score=0.5, metrics=Flat({"loss": 1.0}), notes=("a",), intermediate=(start,))


def test_a_stage_that_reads_tensors_is_not_shown_what_was_reported() -> None:
    state = told()
    seen = shown(LEVEL, state)
    assert (seen.score, dict(seen.metrics), seen.history, seen.notes, seen.intermediate) == (None, {}, (), (), ())
    assert seen.goal == Goal(state.goal.config)
    assert seen.model is state.model and seen.masks is state.masks and seen.origin is state.origin
    assert seen.index == state.index and seen.task.seed == state.task.seed


@pytest.mark.parametrize("call", [remark().calls[0], TAP])
def test_other_stages_are_shown_everything(call: Any) -> None:
    state = told()
    assert shown(call, state) is state and joined(call, state, state) is state


def test_what_was_not_shown_is_there_again_afterwards() -> None:
    state = told()
    assert joined(LEVEL, state, shown(LEVEL, state)) == state
    assert joined(LEVEL, state, shown(LEVEL, state)).intermediate == state.intermediate


def test_what_a_stage_made_comes_back() -> None:
    state, other = told(), TaskResult.start(net(1), 0.5)
    seen = shown(LEVEL, state)
    goal = attrs.evolve(seen.goal, config=fprune.Config(0.125))
    made = seen.replace(
        model=other.model,
        score=0.75,
        metrics=Flat({"acc": 2.0}),
        notes=("a", "b"),
        task=attrs.evolve(seen.task, goal=goal),
    )
    after = joined(LEVEL, state, made)
    assert after.model is other.model and after.score == 0.75 and after.notes == ("a", "b")
    assert dict(after.metrics) == {"acc": 2.0, "loss": 1.0}
    assert after.goal == Goal(0.125, start="origin", final=True) and after.history == state.history


def test_a_stage_that_gives_a_score_can_take_an_earlier_one_away() -> None:
    state = told().replace(metrics=Flat({"loss": 1.0, "score": 0.5}))
    call = evaluate(lambda module: float("nan"), nan="record").calls[0]
    after = joined(call, state, call(shown(call, state)))
    assert after.score is None and dict(after.metrics) == {"loss": 1.0} and len(after.notes) == 2


def test_a_users_stage_sees_what_it_declares_in_a_run() -> None:
    seen: list[tuple[Any, int]] = []

    @stage(reads="tensors")
    def bare(result: TaskResult) -> TaskResult:
        seen.append((result.score, len(result.history)))
        return result

    @stage
    def whole(result: TaskResult) -> TaskResult:
        seen.append((result.score, len(result.history)))
        return result

    (lottery(2) | level() | evaluate(lambda module: 0.5) | bare() | whole()).run(net(), 0.5)
    assert seen[:2] == [(None, 0), (0.5, 0)] and seen[-2:] == [(None, 0), (0.5, 1)]


def test_every_stage_of_the_library_declares_what_it_reads() -> None:
    found = {
        name: fprune.__dict__[name].reads
        for name in dir(fprune)
        if isinstance(getattr(fprune, name), Factory) and getattr(fprune, name).lifts != "schedule"
    }
    assert [name for name, reads in found.items() if reads == "record"] == []
    assert [name for name, reads in found.items() if reads == "nothing"] == ["tap"]


def test_a_pipeline_inside_a_stage_reads_the_world_when_one_of_its_stages_does() -> None:
    quiet, loud = one_shot() | level(), one_shot() | level() | tap(lambda result: None)
    assert [nested(inner).calls[0].reads for inner in (quiet, loud, one_shot() | nested(loud))] == [
        "tensors",
        "world",
        "world",
    ]


def test_remarks_are_made_once() -> None:
    assert TaskResult.start(net(), 0.5).replace(notes=("a", "b", "a")).notes == ("a", "b")


def test_a_stage_that_is_there_for_its_effect_changes_nothing() -> None:
    @stage(reads="nothing")
    def loud(result: TaskResult) -> TaskResult:
        return result.replace(score=1.0)

    state = told()
    assert loud()(state) is state


def test_what_a_stage_can_read_is_a_closed_set() -> None:
    with pytest.raises(CompositionError, match="unknown reads 'tensor'"):
        stage(reads="tensor")(lambda result: result)  # type: ignore[call-overload]
