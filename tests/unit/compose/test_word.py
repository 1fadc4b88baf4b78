"""A stage is a word: a monoid under `|`, applied letter by letter, isolated from the process."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fprune.compose import Call, Stage, pruner, stage
from fprune.errors import CompositionError, FpruneError, ModelError, StageError
from fprune.masks import Masks
from fprune.records import Goal, TaskResult
from fprune.stages import evaluate, finetune, tap
from tests.unit import toys


def start(config: object = 0.5) -> TaskResult:
    return TaskResult.start(toys.net(), config).next(Goal(config))  # type: ignore[arg-type]


@given(toys.words, toys.words, toys.words)
def test_joining_is_associative(a: Stage, b: Stage, c: Stage) -> None:
    """L1: `(a | b) | c == a | (b | c)`."""
    assert (a | b) | c == a | (b | c)
    assert repr((a | b) | c) == repr(a | (b | c))


@given(toys.words)
def test_the_empty_word_is_the_unit(a: Stage) -> None:
    """L1: `Stage() | a == a == a | Stage()`."""
    assert Stage() | a == a == a | Stage()
    assert hash(Stage() | a) == hash(a)


@settings(max_examples=10)
@given(toys.words, toys.words)
def test_a_word_is_its_parts_one_after_the_other(a: Stage, b: Stage) -> None:
    """`(a | b)(r) == b(a(r))` when no name stands in both, which would draw anew."""
    if {call.name for call in a.calls} & {call.name for call in b.calls}:
        return
    assert (a | b)(start()) == b(a(start()))


def test_the_empty_word_changes_nothing() -> None:
    before = start()
    assert Stage()(before) is before


def test_needs_are_what_no_earlier_call_gives() -> None:
    @stage(needs=("masks", "score"), gives=("structure",))
    def greedy(result: TaskResult) -> TaskResult:
        return result

    assert (toys.smallest() | greedy()).needs == {"score"}
    assert (greedy() | toys.smallest()).needs == {"masks", "score"}
    assert (toys.smallest() | greedy()).gives == {"masks", "structure"}


def test_a_pruner_needs_what_its_options_need() -> None:
    class Allocation:
        needs = frozenset({"example_inputs"})

        def __call__(self, *given: object) -> Masks:
            return Masks({})

    @pruner
    def bare(params: object, config: object, allocation: object = None) -> Masks:
        return Masks({})

    assert bare(Allocation()).needs == {"example_inputs"}
    assert bare().needs == frozenset()
    assert bare().gives == {"masks"}


def test_randomness_does_not_depend_on_what_stands_between() -> None:
    alone, beside = finetune(toys.train), tap(toys.look) | evaluate(toys.score) | finetune(toys.train)
    assert alone(start()).model == beside(start()).model


def test_the_second_of_two_equal_stages_draws_anew() -> None:
    drawn = []

    def draw(module: torch.nn.Module) -> None:
        drawn.append([*torch.rand(3).tolist(), random.random(), float(np.random.rand())])

    (finetune(draw) | finetune(draw))(start())
    (finetune(draw) | finetune(draw))(start())
    assert drawn[0] == drawn[2]
    assert drawn[1] == drawn[3]
    assert drawn[0] != drawn[1]


def test_rounds_and_seeds_draw_differently() -> None:
    drawn = []
    stage_of = finetune(lambda module: drawn.append(torch.rand(3).tolist()))
    first = start()
    for result in (first, first.next(Goal(0.5)), TaskResult.start(toys.net(), 0.5, seed=1).next(Goal(0.5))):
        stage_of(result)
    assert len({tuple(values) for values in drawn}) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_a_rude_stage_leaves_no_trace_in_the_process(fails: bool) -> None:
    @stage
    def rude(result: TaskResult) -> TaskResult:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        if fails:
            raise ValueError("rude")
        return result

    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
        )

    result, before = start(), state()
    try:
        rude()(result)
    except StageError:
        assert fails
    assert state() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_grad_mode_of_the_caller_makes_no_difference(mode: type) -> None:
    expected = finetune(toys.train)(start()).model
    with mode():
        assert finetune(toys.train)(start()).model == expected


def test_foreign_errors_name_round_and_stage() -> None:
    def broken(module: torch.nn.Module) -> None:
        raise ValueError("lost the data")

    with pytest.raises(
        StageError, match=r"round 0, finetune\(broken\): ValueError: lost the data\nhint: .*last result"
    ) as e:
        (toys.smallest() | finetune(broken))(start())
    assert isinstance(e.value.__cause__, ValueError)
    with pytest.raises(StageError, match="before the first round, finetune"):
        finetune(broken)(TaskResult.start(toys.net(), 0.5))


def test_own_errors_keep_their_class_and_gain_a_note() -> None:
    class Mine(ModelError):
        pass

    @stage
    def picky(result: TaskResult) -> TaskResult:
        raise Mine("not this one")

    with pytest.raises(Mine) as e:
        picky()(start())
    assert e.value.__notes__ == ["in round 0, picky()"]
    assert isinstance(e.value, FpruneError)


def test_an_interrupt_passes() -> None:
    def stop(module: torch.nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(stop)(start())


def test_a_stage_returns_a_result() -> None:
    @stage
    def forgetful(result: TaskResult) -> None:  # type: ignore[arg-type]
        pass

    with pytest.raises(StageError, match=r"forgetful\(\) returned NoneType, expected a TaskResult\nhint: .*tap"):
        forgetful()(start())


def test_a_stage_takes_a_result() -> None:
    with pytest.raises(CompositionError, match=r"expected a TaskResult, found Sequential\nhint: .*run"):
        toys.smallest()(toys.net())  # type: ignore[arg-type]


def test_a_word_holds_lifted_calls_only() -> None:
    with pytest.raises(CompositionError, match="expected calls of lifted functions"):
        Stage((Call(max),))
    with pytest.raises(CompositionError, match="expected calls of lifted functions"):
        Stage(toys.steps(1.0).calls)


def test_masks_are_for_one_pruner() -> None:
    params = dict(toys.net().named_parameters())
    assert toys.smallest().masks(params, 0.5).sparsity(params) > 0
    for word in (Stage(), finetune(toys.train), toys.smallest() | toys.rows()):
        with pytest.raises(CompositionError, match="expected a stage of one pruner"):
            word.masks(params, 0.5)


@pytest.mark.parametrize("method", ["run", "stream", "explain"])
def test_stages_alone_cannot_run_and_say_what_is_missing(method: str) -> None:
    with pytest.raises(CompositionError, match=r"there is no schedule.*\nhint: begin with one: one_shot\(\) \| tap"):
        getattr(tap(print), method)(toys.net(), 0.5)
