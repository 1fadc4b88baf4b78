"""A pipeline stands where a stage stands: AutoCompress and the like can be written."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fprune.compose import schedule, stage
from fprune.config import Config
from fprune.errors import CompositionError, ModelError, StageError
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.schedules import agp, linear, lottery, one_shot
from fprune.stages import evaluate, finetune, nested, tap
from tests.unit import toys
from tests.unit.toys import rows, score, smallest, steps, train


def test_one_inner_round_is_the_stage_itself() -> None:
    outer = list((linear(3) | nested(one_shot() | smallest())).stream(toys.net(), 0.6))
    plain = list((linear(3) | smallest()).stream(toys.net(), 0.6))
    assert [r.model for r in outer] == [r.model for r in plain]
    assert [r.masks for r in outer] == [r.masks for r in plain]


def test_inner_rounds_aim_at_the_goal_of_the_round() -> None:
    seen: list[Any] = []
    look = tap(lambda result: seen.append((result.index, result.task.target, result.goal.config)))
    (steps(0.5, 1.0) | nested(linear(2) | smallest() | look)).run(toys.net(), 0.8)
    half, full = Config(0.4), Config(0.8)
    assert seen[:3] == [(0, half, Config(0.0)), (1, half, Config(0.2)), (2, half, half)]
    assert seen[3:] == [(0, full, Config(0.0)), (1, full, half), (2, full, full)]


def test_inner_origin_is_the_state_at_entry() -> None:
    """Every inner round starts from the outer round's model and masks, not from the network of the run."""
    starts: list[TaskResult] = []
    inner = steps(1.0, 0.75, 1.0, start="origin") | tap(starts.append) | smallest() | finetune(train)
    first = one_shot().then(one_shot()) | smallest() | finetune(train)
    results = list((first | nested(inner)).stream(toys.net(), 0.4))
    for outer, inners in ((results[0], starts[:3]), (results[1], starts[3:])):
        assert all(r.model == inners[0].model and r.masks == inners[0].masks for r in inners)
        assert inners[0].model != Model.from_module(toys.net())
        assert all(r.origin == outer.origin for r in inners), "sparsity counts against the network of the run"


def test_the_best_inner_result_goes_on() -> None:
    @schedule
    def tries(target: Config) -> Iterator[Goal]:
        for _ in range(3):
            yield Goal(target, start="origin", final=True)

    def noisy(module: nn.Module) -> float:
        return float(torch.rand(()))

    scores: list[Any] = []
    inner = tries() | smallest() | evaluate(noisy) | tap(lambda r: scores.append(r.score))
    result = (one_shot() | nested(inner)).run(toys.net(), 0.5)
    assert len(set(scores)) == 3
    assert result.score == max(scores)
    assert result.metrics["score"] == max(scores)
    assert result.notes == (
        f"nested: kept the result of inner round {scores.index(max(scores))}, score {max(scores):g}",
    )


def test_without_a_score_the_earlier_one_stays() -> None:
    result = (one_shot() | evaluate(lambda m: 7.0) | nested(one_shot() | smallest())).run(toys.net(), 0.5)
    assert result.score == 7.0


@schedule
def allocations(target: Config) -> Iterator[Goal]:
    """A search: candidates of equal size, each tried on the same model."""
    share = target.rules[0].amount
    for first in (0.5, 1.0, 1.5):
        rules = [{"op_names": ["0"], "sparsity": share * first}, {"op_names": ["3"], "sparsity": share * (2 - first)}]
        yield Goal(rules, start="origin", final=True)


def test_a_search_hands_on_its_allocation() -> None:
    """AutoCompress: the inner run finds how much each layer loses, another pruner prunes by that."""
    seen: list[TaskResult] = []
    search = allocations() | smallest() | evaluate(score)
    pipeline = lottery(2) | nested(search, keep="config") | tap(seen.append) | rows() | finetune(train)
    results = list(pipeline.stream(toys.net(), 0.4))
    gone = 0  # channels do not come back, although a later search may give their layer less
    for before, result in zip(seen, results, strict=True):
        assert before.model == before.task.model, "the candidates are forgotten"
        assert before.masks == before.task.masks
        assert before.score is None
        assert len(before.goal.config.rules) == 2
        assert result.report.goal == before.goal
        plan = before.goal.config.resolve(before.origin)
        gone = max(gone, int(plan["0"].sparsity * 8 + 1e-9))  # type: ignore[operator]
        assert result.report.channels["0.weight"].removed == gone
    assert list(pipeline.stream(results[0])) == results[1:]
    assert [r.goal.final for r in results] == [False, True]


def test_a_search_alone_prunes_nothing() -> None:
    with pytest.raises(CompositionError, match="prunes nothing"):
        (one_shot() | nested(one_shot() | smallest(), keep="config")).stream(toys.net(), 0.5)
    (one_shot() | nested(one_shot() | smallest())).stream(toys.net(), 0.5)


def test_needs_and_gives_are_those_of_the_inside() -> None:
    @stage(needs=("example_inputs",))
    def looking(result: TaskResult) -> TaskResult:
        return result

    inner = nested(one_shot() | smallest() | looking() | evaluate(score))
    assert inner.needs == {"example_inputs"}
    assert inner.gives == {"masks", "score"}
    with pytest.raises(CompositionError, match="needs example_inputs"):
        (one_shot() | inner).stream(toys.net(), 0.5)


def test_rounds_draw_differently() -> None:
    drawn: list[Any] = []
    inner = linear(1) | smallest() | finetune(lambda m: drawn.append(torch.rand(2).tolist()))
    (linear(1) | nested(inner)).run(toys.net(), 0.5)
    assert len({tuple(values) for values in drawn}) == 4


def test_pipelines_nest_deeply() -> None:
    once = one_shot() | smallest()
    twice = one_shot() | nested(once)
    assert (one_shot() | nested(twice)).run(toys.net(), 0.5).masks == once.run(toys.net(), 0.5).masks


def test_errors_tell_both_rounds() -> None:
    calls = iter(range(10))

    def fails(module: nn.Module) -> None:
        if next(calls) == 3:
            raise ValueError("no")

    with pytest.raises(StageError, match=r"round 1, finetune\(fails\): ValueError: no") as e:
        (linear(2) | nested(agp(1) | smallest() | finetune(fails))).run(toys.net(), 0.5)
    assert e.value.__notes__ == ["in round 1, nested(agp(1) | smallest() | finetune(fails))"]


def test_masks_of_the_run_hold_inside() -> None:
    mine = {"0.weight": torch.arange(8)[:, None] > 2}
    result = (one_shot() | nested(agp(2) | smallest() | finetune(train))).run(toys.net(), 0.5, masks=mine)
    assert result.masks.shrinks(Masks(mine))


@pytest.mark.parametrize("bad", [smallest(), one_shot(), 3, None])
def test_a_pipeline_is_expected(bad: Any) -> None:
    with pytest.raises(CompositionError, match=r"nested: expected a pipeline, found \w+\nhint: nested"):
        nested(bad)
    with pytest.raises(CompositionError, match="nested: keep is 'model'"):
        nested(one_shot() | smallest(), keep="model")  # type: ignore[arg-type]


def test_inner_names_are_checked() -> None:
    with pytest.raises(ModelError):
        (one_shot() | nested(one_shot() | smallest())).run(nn.ReLU(), 0.5)
