"""Conditions that end a schedule, and which result is returned then."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune import agp, evaluate, level, linear, one_shot, stage
from fprune.compose import Schedule, schedule
from fprune.config import Config
from fprune.errors import CompositionError, ConfigTypeError, ScheduleError
from fprune.records import Goal, Report, TaskResult
from fprune.setting import Setting
from tests.unit import toys

TARGET = Config(0.8)


def bad(report: Report) -> bool:
    return report.score is not None and report.score < 0.5


def third(report: Report) -> bool:
    return report.index == 2


def density(module: Any) -> float:
    """1 - the sparsity, so that it falls in every round."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    return float(sum(int(w.count_nonzero()) for w in weights)) / sum(w.numel() for w in weights)


def report(index: int, score: float = 0.0) -> Report:
    return Report(index, Goal(0.5), score)


def dense() -> torch.nn.Module:
    net = torch.nn.Linear(10, 10)
    with torch.no_grad():
        net.weight.copy_(torch.arange(1.0, 101.0).reshape(10, 10))
        net.bias.fill_(1.0)
    return net


def test_the_condition_ends_the_rounds() -> None:
    pipeline = linear(10).until(bad) | level() | evaluate(density)
    results = list(pipeline.stream(dense(), 0.8))
    assert [round(result.report.sparsity, 2) for result in results] == [0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48, 0.56]
    assert [bad(result.report) for result in results] == [False] * 7 + [True]


def test_run_returns_the_last_round_that_did_not_fulfil_it() -> None:
    pipeline = linear(10).until(bad) | level() | evaluate(density)
    assert pipeline.run(dense(), 0.8).index == 6
    assert pipeline.run(dense(), 0.2).index == 10, "the target was reached, so it is the final goal's result"


def test_run_returns_the_only_round_there_is() -> None:
    assert (linear(4).until(lambda _: True) | level()).run(dense(), 0.8).index == 0


def test_a_final_goal_counts_even_if_it_stops() -> None:
    pipeline = linear(2).until(lambda r: r.index == 2) | level()
    assert pipeline.run(dense(), 0.8).index == 2


def test_resuming_stops_where_the_run_stopped() -> None:
    pipeline = linear(10).until(bad) | level() | evaluate(density)
    results = list(pipeline.stream(dense(), 0.8))
    for k, result in enumerate(results):
        assert list(pipeline.stream(copy.deepcopy(result))) == results[k + 1 :]


def test_it_ends_what_it_is_said_of_and_nothing_after() -> None:
    reports = [report(i) for i in range(4)]
    first = linear(4).until(third).then(one_shot())
    assert first.goal(TARGET, reports[:3]) == Goal(TARGET, final=True)
    assert first.goal(TARGET, reports) is None
    assert linear(4).then(one_shot()).until(third).goal(TARGET, reports[:3]) is None
    assert not first.stopped(TARGET, reports)
    assert linear(4).until(third).stopped(TARGET, reports[:3])
    assert not linear(4).stopped(TARGET, [report(i) for i in range(5)])


@pytest.mark.parametrize(
    "expression",
    [
        linear(4).until(bad),
        linear(4).until(bad).then(one_shot()),
        linear(4).then(one_shot()).until(bad),
        linear(4).then(one_shot().until(third)).until(bad),
        linear(4).until(third).until(bad),
    ],
    ids=repr,
)
def test_the_repr_is_the_expression(expression: Schedule) -> None:
    names = {"linear": linear, "one_shot": one_shot, "bad": bad, "third": third}
    assert eval(repr(expression), names) == expression


def test_joining_is_associative() -> None:
    a, b, c = linear(2).until(bad), one_shot(), agp(3)
    assert a.then(b).then(c) == a.then(b.then(c))


def test_explain_shows_all_rounds_and_that_they_may_end_before() -> None:
    shown = (agp(4).until(bad) | level() | evaluate(density)).explain(dense(), 0.8)
    assert len(shown.goals) == 5
    assert shown.complete
    assert "may end before" in str(shown)
    assert "may end before" not in str((agp(4) | level()).explain(dense(), 0.8))


def test_a_condition_is_a_function() -> None:
    with pytest.raises(CompositionError, match=r"agp\(3\).until: expected a function of a report, found float"):
        agp(3).until(0.9)  # type: ignore[arg-type]


def test_a_condition_on_a_score_that_nobody_gives() -> None:
    with pytest.raises(ScheduleError, match="TypeError") as caught:
        list((agp(3).until(lambda r: r.score < 0.9) | level()).stream(dense(), 0.8))  # type: ignore[operator]
    assert "evaluate(fn)" in str(caught.value)


@given(toys.schedules, st.lists(st.floats(0, 1), max_size=6))
def test_live_is_the_same_as_replayed(drawn: Schedule, scores: list[float]) -> None:
    """L7: what is remembered between rounds makes no difference."""
    for expression in (drawn, drawn.until(third), drawn.until(bad).then(one_shot())):
        live = expression.live()
        past: list[Report] = []
        for k, score in enumerate([*scores, 0.0]):
            assert live(TARGET, past) == expression.goal(TARGET, past)
            past.append(report(k, score))
        assert live(TARGET, past[:1]) == expression.goal(TARGET, past[:1]), "asked again for an earlier round"


def test_live_does_not_begin_anew() -> None:
    begun: list[int] = []

    @schedule
    def counted(target: Config) -> Iterator[Goal]:
        begun.append(1)
        for _ in range(5):
            yield Goal(target)

    live = counted().live()
    for k in range(6):
        live(TARGET, [report(i) for i in range(k)])
    assert begun == [1]
    live(TARGET, [])
    assert begun == [1, 1]


def test_live_is_not_taken_in_by_other_reports_of_the_same_number() -> None:
    live = linear(4).until(bad).live()
    assert live(TARGET, [report(0, 1.0), report(1, 1.0)]) is not None
    assert live(TARGET, [report(0, 1.0), report(1, 0.1)]) is None
    assert live(Config(0.4), [report(0, 1.0), report(1, 1.0)]) == Goal(Config(0.4).scaled(0.5))


def test_a_schedule_that_raised_is_begun_anew() -> None:
    @schedule
    def fragile(target: Config) -> Iterator[Goal]:
        found = yield Goal(target)  # type: ignore[misc]
        if found.score < 0:
            raise ValueError("below zero")
        yield Goal(target, final=True)

    live = fragile().live()
    live(TARGET, [])
    for _ in range(2):
        with pytest.raises(ScheduleError, match="below zero"):
            live(TARGET, [report(0, -1.0)])
    assert live(TARGET, [report(0, 1.0)]) == Goal(TARGET, final=True)


@schedule(setting=True)
def spread(target: Config, setting: Setting, parts: int) -> Iterator[Goal]:
    """One goal for each layer."""
    for row in setting.plan.selected[:parts]:
        yield Goal([{"op_names": [row.layer.name], "sparsity": 0.5}], start="origin")


def test_a_schedule_may_look_at_the_layers() -> None:
    net = toys.net()
    setting = Setting.of(net, 0.5, seed=4)
    goals = spread(5).goals(Config(0.5), setting=setting)
    assert [goal.config.rules[0].op_names for goal in goals] == [("0",), ("3",)]
    found = [result.goal for result in (spread(5) | level()).stream(net, 0.5)]
    assert found == goals


def test_the_seed_of_a_schedule_is_that_of_the_run() -> None:
    seen: list[int] = []

    @schedule(setting=True)
    def watch(target: Config, setting: Setting) -> Iterator[Goal]:
        seen.append(setting.seed)
        yield Goal(target, final=True)

    for seed in (0, 0, 1):
        (watch() | level()).run(toys.net(), 0.5, seed=seed)
    runs = set(seen)
    assert len(runs) == 2 and 0 not in runs


def test_a_schedule_without_its_layers_says_what_to_do() -> None:
    with pytest.raises(ScheduleError, match=r"spread\(2\) looks at the layers of a model") as caught:
        spread(2).goals(Config(0.5))
    assert "Setting.of(net, config)" in str(caught.value)


def test_another_rule_chooses_the_result() -> None:
    def sparsest(r: Report) -> float | None:
        return r.sparsity if r.score is not None and r.score >= 0.7 else None

    pipeline = linear(10) | level() | evaluate(density)
    found = pipeline.run(dense(), 0.8, best=sparsest)
    assert (found.index, round(found.report.sparsity, 2)) == (3, 0.24)
    assert pipeline.run(dense(), 0.8, best=lambda _: None).index == 10
    assert pipeline.run(dense(), 0.8, best=lambda r: r.score).index == 0


def test_intermediate_results_are_kept_on_request() -> None:
    pipeline = linear(4) | level()
    kept = pipeline.run(dense(), 0.8, keep_intermediate_result=True)
    assert list(kept.intermediate) == list(pipeline.stream(dense(), 0.8))
    assert kept == pipeline.run(dense(), 0.8)
    assert pipeline.run(dense(), 0.8).intermediate == ()

    @stage
    def look(result: TaskResult) -> TaskResult:
        assert result.intermediate == ()
        return result

    list((linear(5) | level() | look()).stream(kept))


def test_a_best_rule_that_is_no_function_or_gives_nan_is_refused() -> None:
    with pytest.raises(ConfigTypeError, match=r"best: expected a function of a report, got 'score'"):
        (linear(2) | level()).run(dense(), 0.5, best="score")  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match=r"best: nan for round 0"):
        (linear(2) | level()).run(dense(), 0.5, best=lambda report: float("nan"))
