"""What a stage may hand on: NaN where a number was is refused, with the tensor named; what was there before is not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fprune.compose import pruner, stage
from fprune.errors import DivergenceError, StageError
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.trained import Trained
from tests.unit import toys


def with_bad(value: Tensor, bad: float = math.nan) -> Tensor:
    out = value.clone()
    out.view(-1)[-1] = bad
    return out


def start(net: Any = None) -> TaskResult:
    return TaskResult.start(net or toys.net(), 0.5).next(Goal(0.5))


@stage
def spoil(result: TaskResult, name: str, bad: float) -> TaskResult:
    model = result.model
    field = "params" if name in model.params else "buffers"
    return result.replace(model=model.replace(**{field: {name: with_bad(getattr(model, field)[name], bad)}}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "at"), [("3.weight", "3,7"), ("1.running_var", "7")])
def test_a_users_stage_that_diverges(name: str, at: str, bad: float) -> None:
    with pytest.raises(DivergenceError) as caught:
        spoil(name, bad)(start())
    assert caught.value.message.startswith(f"spoil('{name}', {bad}): '{name}' has 1 non-finite value (first at [{at}])")
    assert "pipeline.stream(result)" in caught.value.hint
    assert caught.value.__notes__ == [f"in round 0, spoil('{name}', {bad})"]


def test_what_was_not_finite_before_may_stay_so() -> None:
    net = toys.net()
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert spoil("mask", math.inf)(start(net)).model.buffers["mask"][1] == math.inf


def test_a_pruner_that_trains_into_nan() -> None:
    @pruner
    def learned(params: Any, config: Any) -> Trained:
        model = Model.of(params.model)
        return Trained(Masks({}), model.replace({"3.bias": with_bad(model["3.bias"])}), {})

    with pytest.raises(DivergenceError, match=r"learned\(\): '3\.bias' has 1 non-finite value"):
        learned()(start())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": math.nan}, r"gives\(.*\): the score is nan, expected a finite number"),
        ({"score": "0.5"}, r"gives\(.*\): the score is '0\.5' \(str\), expected a number"),
        ({"metrics": {"loss": math.inf}}, r"gives\(.*\): metrics\['loss'\] is inf, expected a finite number"),
    ],
)
def test_numbers_that_are_none(changes: dict[str, Any], message: str) -> None:
    @stage
    def gives(result: TaskResult, changes: Any) -> TaskResult:
        return result.replace(**changes)

    with pytest.raises(StageError, match=message):
        gives(changes)(start())


def test_a_failed_round_names_the_last_one_that_was_kept() -> None:
    @stage
    def breaks_in(result: TaskResult, index: int) -> TaskResult:
        return spoil("3.weight", math.nan)(result) if result.index == index else result

    rounds = iter((toys.steps(0.2, 0.6, 1.0) | toys.smallest() | breaks_in(1)).stream(toys.net(), 0.5))
    first = next(rounds)
    with pytest.raises(DivergenceError) as caught:
        next(rounds)
    assert "in round 1, breaks_in(1)" in caught.value.__notes__
    again = (toys.steps(0.2, 0.6, 1.0) | toys.smallest() | breaks_in(7)).stream(first)
    assert [result.index for result in again] == [1, 2]
