"""Streams are lazy values; runs keep the best result; a result is enough to go on from."""

import copy
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fprune.compose import Pipeline, pruner, schedule, stage
from fprune.config import Config
from fprune.errors import ConfigTypeError, ScheduleError, StageError
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.run import run
from fprune.schedules import agp, linear, one_shot
from fprune.shrinking import same_selectors
from fprune.stages import evaluate, finetune, reset_weight, tap
from fprune.stream import Stream, reports
from fprune.tree import same
from tests.unit import toys
from tests.unit.toys import remember, rows, score, smallest, steps, train

seeds = st.integers(0, 3)


@settings(max_examples=15)
@given(toys.pipelines, seeds)
def test_equal_seeds_give_equal_streams(pipeline: Pipeline, seed: int) -> None:
    """L3: bit for bit, whatever the generators of the process do in between."""
    stream = pipeline.stream(toys.net(), 0.7, seed=seed)
    first = list(stream)
    torch.rand(5)
    assert list(stream) == first
    assert list(pipeline.stream(toys.net(), 0.7, seed=seed)) == first


@settings(max_examples=15)
@given(toys.pipelines, seeds)
def test_a_result_is_enough_to_go_on_from(pipeline: Pipeline, seed: int) -> None:
    """L4: `list(p.stream(rs[k])) == rs[k + 1:]`."""
    results = list(pipeline.stream(toys.net(), 0.7, seed=seed))
    for k, result in enumerate(results):
        assert list(pipeline.stream(result)) == results[k + 1 :]
        assert list(pipeline.stream(copy.deepcopy(result))) == results[k + 1 :]


def test_going_on_keeps_initial_masks_for_goals_that_start_anew() -> None:
    given_masks = {"0.weight": torch.arange(8)[:, None] > 1}
    pipeline = steps(0.3, 1.0, 0.6, start="origin") | smallest() | finetune(train)
    results = list(pipeline.stream(toys.net(), 0.7, masks=given_masks))
    for k, result in enumerate(results):
        assert list(pipeline.stream(result)) == results[k + 1 :]
        assert result.masks.shrinks(Masks(given_masks))
        assert result.task.origin_masks == Masks(given_masks)


@given(st.integers(0, 4), toys.schedules)
def test_taking_k_results_runs_k_rounds(k: int, s: Any) -> None:
    """L13: and neither an iterator nor a repr runs any."""
    ran: list[int] = []
    stream = (s | smallest() | tap(lambda result: ran.append(result.index))).stream(toys.net(), 0.7)
    iterator = iter(stream)
    assert repr(stream)
    assert stream._repr_html_()
    assert ran == []
    taken = [result.index for _, result in zip(range(k), iterator, strict=False)]
    assert ran == taken == list(range(min(k, len(s.goals(Config(0.7))))))


def test_the_schedule_is_not_asked_before_its_time() -> None:
    asked: list[int] = []

    def next_goal(target: Config, past: Any) -> Goal | None:
        asked.append(len(past))
        return Goal(target) if len(past) < 3 else None

    iterator = iter(Stream(next_goal, lambda r: r, TaskResult.start(toys.net(), 0.5)))
    next(iterator)
    assert asked == [0]
    next(iterator)
    assert asked == [0, 1]


def test_a_stream_can_be_iterated_side_by_side() -> None:
    stream = (agp(2) | smallest() | finetune(train)).stream(toys.net(), 0.7)
    pairs = list(zip(stream, stream, strict=True))
    assert all(a == b for a, b in pairs)


def test_a_stream_keeps_the_network_it_was_given() -> None:
    net = toys.net()
    stream = (one_shot() | smallest()).stream(net, 0.5)
    before = list(stream)
    nn.init.zeros_(net[0].weight)
    assert list(stream) == before


def test_repr_tells_what_would_run() -> None:
    stream = (agp(3) | smallest()).stream(toys.net(), 0.5)
    assert repr(stream) == "Stream(agp(3) | smallest(), Model(Sequential, 6 params, 108 elements), from round 0)"
    result = next(iter(stream))
    assert "from round 1" in repr((agp(3) | smallest()).stream(result))


def test_results_carry_history_and_index() -> None:
    results = list((linear(3) | smallest() | evaluate(score)).stream(toys.net(), 0.6))
    assert [r.index for r in results] == [0, 1, 2, 3]
    assert [len(r.history) for r in results] == [0, 1, 2, 3]
    assert results[-1].history == tuple(r.report for r in results[:-1])
    assert reports(results[1]) == (results[0].report, results[1].report)
    assert reports(TaskResult.start(toys.net(), 0.5)) == ()


def test_sparsity_is_reached_exactly() -> None:
    """L9, through a run: rounds count on the original, and what is gone counts."""
    results = list((linear(4) | smallest()).stream(toys.net(), 0.5))
    assert [r.report.elements["0.weight"].removed for r in results] == [0, 6, 12, 18, 24]


# ------------------------------------------------------------------------------------------------------- going on


def test_a_result_brings_config_seed_and_inputs_along() -> None:
    first = next(iter((agp(2) | smallest()).stream(toys.net(), 0.5, seed=7, example_inputs=toys.X)))
    later = next(iter((agp(2) | smallest()).stream(first)))
    assert (later.task.target, later.task.seed) == (Config(0.5), 7)
    assert later.task.example_inputs == first.task.example_inputs
    other = next(iter((agp(2) | smallest()).stream(first, 0.6, seed=8, example_inputs=toys.X[:2])))
    assert (other.task.target, other.task.seed) == (Config(0.6), 8)
    assert other.goal.config == Config(0.6).scaled(0.875)
    assert other.task.plan == Config(0.6).resolve(first.origin)


def test_going_on_after_the_end_runs_nothing_and_returns_the_result() -> None:
    pipeline = one_shot() | smallest()
    result = pipeline.run(toys.net(), 0.5)
    assert list(pipeline.stream(result)) == []
    assert pipeline.run(result) == result


def test_going_on_with_another_pipeline() -> None:
    first = (one_shot() | smallest()).run(toys.net(), 0.3)
    with pytest.raises(ScheduleError, match=r"goal 1: asks for sparsity 0 after 0\.3"):
        (one_shot().then(linear(1)) | smallest()).stream(first)
    (again,) = (one_shot().then(one_shot()) | rows() | finetune(train)).stream(first, 0.5)
    assert (again.index, again.report.channel_sparsity, again.history) == (1, 0.5, (first.report,))


def test_a_failed_round_can_be_repeated() -> None:
    """The run goes on from the last result as if nothing had happened."""
    calls = iter(range(100))

    def flaky(module: nn.Module) -> None:
        train(module)
        if next(calls) == 3:
            raise OSError("disk full")

    pipeline = linear(4) | smallest() | finetune(flaky)
    stream = iter(pipeline.stream(toys.net(), 0.5))
    results = [next(stream) for _ in range(3)]
    with pytest.raises(StageError, match="round 3"):
        next(stream)
    assert [*results, *pipeline.stream(results[-1])] == list(pipeline.stream(toys.net(), 0.5))


# ------------------------------------------------------------------------------------------------ where rounds start


def test_goals_from_the_origin_forget_the_rounds_before() -> None:
    begun: list[TaskResult] = []
    pipeline = steps(1.0, 0.5, start="origin") | tap(begun.append) | smallest() | finetune(train)
    results = list(pipeline.stream(toys.net(), 0.6))
    assert begun[1].task.model == Model.from_module(toys.net())
    assert results[1].masks == smallest().masks(Model.from_module(toys.net()), 0.3)
    assert len(results[1].history) == 1


@pytest.mark.parametrize("ask", ["stream", "run", "explain"])
def test_less_than_before_is_refused_at_once(ask: str) -> None:
    with pytest.raises(ScheduleError, match=r'goal 1: asks for sparsity 0\.35 after 0\.7.*\nhint: .*start="origin"'):
        getattr(steps(1.0, 0.5) | smallest(), ask)(toys.net(), 0.7)


def test_less_than_before_is_refused_when_it_turns_up() -> None:
    @schedule
    def retreat(target: Config) -> Iterator[Goal]:
        report = yield Goal(target)  # type: ignore[misc]
        yield Goal(target.scaled(0.5 + report.sparsity * 0))

    stream = iter((retreat() | smallest()).stream(toys.net(), 0.7))
    next(stream)
    with pytest.raises(ScheduleError, match=r"goal 1: asks for sparsity 0\.35 after 0\.7"):
        next(stream)


def test_less_for_one_rule_is_refused() -> None:
    @schedule
    def swap(target: Config) -> Iterator[Goal]:
        yield Goal([{"op_names": ["0"], "sparsity": 0.2}, {"op_names": ["3"], "sparsity": 0.6}])
        yield Goal([{"op_names": ["0"], "sparsity": 0.5}, {"op_names": ["3"], "sparsity": 0.4}])

    with pytest.raises(ScheduleError, match=r"rule 1: asks for sparsity 0\.4 after 0\.6"):
        (swap() | smallest()).stream(toys.net(), 0.7)


def test_less_under_other_rules_is_refused() -> None:
    result = (one_shot() | smallest()).run(toys.net(), 0.6)
    pipeline = one_shot().then(one_shot()) | smallest()
    with pytest.raises(ScheduleError, match="goal 1: asks for sparsity"):
        pipeline.stream(result, [{"op_names": ["0"], "sparsity": 0.6}])
    pipeline.stream(result, [{"op_names": ["0", "3"], "sparsity": 0.6}])


def test_same_selectors_ignores_amounts() -> None:
    rules = [{"op_names": ["0"], "sparsity": 0.2}, {"op_names": ["3"], "total_sparsity": 0.4}]
    assert same_selectors(Config(rules), Config(rules).scaled(0.3))
    assert not same_selectors(Config(rules), Config(rules[:1]))


# ------------------------------------------------------------------------------------------------- the best result


@schedule
def finals(target: Config, *final: bool) -> Iterator[Goal]:
    """As many goals as flags."""
    for flag in final:
        yield Goal(target, final=flag)


def scored(*scores: float | None) -> Any:
    """A stage that gives the t-th score in round t."""

    @stage
    def give(result: TaskResult) -> TaskResult:
        return result.replace(score=scores[result.index])

    return give()


@pytest.mark.parametrize(
    ("flags", "scores", "expected"),
    [
        ([True], [0.5], 0),
        ([False, False, True], [0.9, 0.8, 0.1], 2),  # a score that falls with sparsity does not return the dense model
        ([True, True, True], [0.1, 0.9, 0.5], 1),
        ([False, True, True, False], [0.9, 0.5, 0.4, 0.9], 1),
        ([True, True], [0.5, 0.5], 1),
        ([True, True], [None, None], 1),
        ([True, True, True], [None, -5.0, None], 1),
        ([False, False], [0.9, 0.1], 1),
        ([True, False], [None, 0.9], 0),
        ([True, True], [-1e301, -1e300], 1),
    ],
)
def test_the_best_final_result_is_returned(flags: list[bool], scores: list[float | None], expected: int) -> None:
    pipeline = finals(*flags) | smallest() | scored(*scores)
    assert pipeline.run(toys.net(), 0.5).index == expected


def test_a_run_that_goes_on_compares_the_result_it_began_with() -> None:
    pipeline = finals(True, True) | smallest() | scored(0.9, 0.1)
    results = list(pipeline.stream(toys.net(), 0.5))
    assert pipeline.run(results[0]) == results[0]


def test_no_goal_no_result() -> None:
    with pytest.raises(ScheduleError, match="has no goal"):
        run(Stream(lambda target, past: None, lambda r: r, TaskResult.start(toys.net(), 0.5), "empty()"))


# ------------------------------------------------------------------------------------------------------------ stores


@attrs.frozen
class Memory:
    """A store that keeps everything, and the session of its one run."""

    kept: list[TaskResult] = attrs.Factory(list)

    def writing(self, start: TaskResult, name: str) -> AbstractContextManager["Memory"]:
        return nullcontext(self)

    @property
    def latest(self) -> TaskResult | None:
        return self.kept[-1] if self.kept else None

    def result(self, index: int) -> TaskResult | None:
        return next((result for result in self.kept if result.index == index), None)

    def ready(self) -> None:
        pass

    def commit(self, result: TaskResult, best: int) -> None:
        self.kept.append(result)


def test_each_result_is_stored_before_the_next_round() -> None:
    store = Memory()
    pipeline = agp(3) | smallest() | finetune(train)
    iterator = iter(pipeline.stream(toys.net(), 0.6, store=store))
    for count in (1, 2):
        next(iterator)
        assert len(store.kept) == count


def test_a_stored_run_goes_on_where_it_stopped() -> None:
    store, pipeline = Memory(), agp(3) | smallest() | finetune(train)
    whole = list(pipeline.stream(toys.net(), 0.6))
    for _ in zip(range(2), pipeline.stream(toys.net(), 0.6, store=store), strict=False):
        pass
    assert list(pipeline.stream(toys.net(), 0.6, store=store)) == whole[2:]
    assert store.kept == whole
    assert list(pipeline.stream(toys.net(), 0.6, store=store)) == []
    assert pipeline.run(toys.net(), 0.6, store=store) == whole[-1]


@pytest.mark.parametrize("interrupted", [1, 2, 3])
def test_a_resumed_run_returns_the_best_of_all_its_rounds(interrupted: int) -> None:
    """The best round may lie before the interruption; by the default rule and by one of the caller's own."""
    scores = {0: 0.1, 1: 0.9, 2: 0.3, 3: 0.2}

    @stage(gives=("score",))
    def scored(result: TaskResult) -> TaskResult:
        return result.replace(score=scores[result.index])

    @schedule
    def tries(target: Config) -> Iterator[Goal]:
        for _ in scores:
            yield Goal(target, start="origin", final=True)

    for best, winner in ((None, 1), (lambda report: -report.score, 0)):
        store, pipeline = Memory(), tries() | smallest() | scored()
        for _ in zip(range(interrupted), pipeline.stream(toys.net(), 0.6, store=store), strict=False):
            pass
        whole = pipeline.run(toys.net(), 0.6, best=best)
        assert pipeline.run(toys.net(), 0.6, store=store, best=best) == whole
        assert whole.index == winner


def test_a_store_is_one() -> None:
    with pytest.raises(ConfigTypeError, match="store: expected a folder, a run_folder"):
        (one_shot() | smallest()).stream(toys.net(), 0.5, store=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [True, 0.5, "1"])
def test_a_seed_is_an_int(seed: Any) -> None:
    pipeline = one_shot() | smallest()
    with pytest.raises(ConfigTypeError, match="seed: expected an int"):
        pipeline.stream(toys.net(), 0.5, seed=seed)
    with pytest.raises(ConfigTypeError, match="seed: expected an int"):
        pipeline.stream(pipeline.run(toys.net(), 0.5), seed=seed)


# ------------------------------------------------------------------------------------------------------------ purity


def everything(net: nn.Module) -> list[Any]:
    """Bytes, versions, flags, hooks: all that a run has to leave alone."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    saved = io.BytesIO()
    torch.save(net.state_dict(), saved)
    return [
        saved.getvalue(),
        {name: (t._version, t.requires_grad, id(t), t.data_ptr(), t.grad is None) for name, t in tensors.items()},
        [(module.training, dict(module._forward_hooks), sorted(vars(module))) for module in net.modules()],
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_the_caller_owns_changes(training: bool, fails: bool) -> None:
    """L5, on success and on an error in the middle."""

    def last(module: nn.Module) -> float:
        module.train()(toys.X)
        nn.init.zeros_(module[3].weight)  # type: ignore[index]
        if fails:
            raise ValueError("no")
        return 0.0

    net = toys.net().train(training)
    net[0].bias.requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    masks = {"0.weight": torch.arange(8)[:, None] > 1}
    config = [{"op_names": ["0", "3"], "sparsity": 0.5}]
    mine = copy.deepcopy((masks, config))
    before = everything(net)
    pipeline = agp(1) | smallest() | finetune(train) | reset_weight() | finetune(train) | evaluate(last)
    try:
        list(pipeline.stream(net, config, masks=masks, example_inputs=toys.X))
    except StageError:
        assert fails
    assert everything(net) == before
    assert same((masks, config), mine)


@given(toys.pipelines)
@settings(max_examples=10)
def test_masks_only_shrink_and_hold(pipeline: Pipeline) -> None:
    """L6, and pruned weights are exactly zero, never -0.0."""
    earlier = Masks({})
    for result in pipeline.stream(toys.net(), 0.7):
        assert result.masks.shrinks(earlier)
        assert result.model.params == result.masks.apply(result.model)
        for name, mask in result.masks.items():
            gone = result.model[name].masked_select(~mask.expand_as(result.model[name]))
            assert not torch.signbit(gone).any()
        earlier = result.masks


def test_histories_hold_no_tensors() -> None:
    def tensors(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return 1
        if attrs.has(type(value)):
            return sum(tensors(getattr(value, field.name)) for field in attrs.fields(type(value)))
        if isinstance(value, dict):
            return sum(map(tensors, value.values()))
        return sum(map(tensors, value)) if isinstance(value, list | tuple) else 0

    result = (agp(2) | rows() | evaluate(score) | remember("x")).run(toys.net(), 0.5)
    assert tensors(list(result.history)) == 0


def test_a_stream_holds_two_states_and_not_all() -> None:
    import gc
    import weakref

    seen: list[Any] = []

    @pruner
    def watched(params: Any, config: Config) -> Masks:
        return Masks({})

    @stage
    def fresh(result: TaskResult) -> TaskResult:
        model = Model.from_module(result.module())
        seen.append(weakref.ref(model["0.weight"]))
        return result.replace(model=model)

    for _ in (steps(*([0.5] * 8)) | watched() | fresh()).stream(toys.net(), 0.5):
        gc.collect()
        assert sum(ref() is not None for ref in seen) <= 2


def test_a_result_does_not_keep_the_state_before_it() -> None:
    for result in (linear(2) | smallest() | finetune(train)).stream(toys.net(), 0.5):
        assert result.task.model is result.model
        assert result.task.masks is result.masks
