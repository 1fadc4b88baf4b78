"""`evaluate` gives a finite number from a private module in eval mode."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fprune.errors import CompositionError, StageError
from fprune.records import Goal, TaskResult
from fprune.stages import evaluate
from tests.unit import toys


def start(net: nn.Module | None = None) -> TaskResult:
    return TaskResult.start(net or toys.net(), 0.5).next(Goal(0.5))


@pytest.mark.parametrize("value", [0.5, 1, -3, np.float32(0.5), np.float64(2), np.int64(3), Fraction(1, 2)])
def test_any_finite_number_is_a_score(value: Any) -> None:
    result = evaluate(lambda module: value)(start())
    assert result.score == float(value)
    assert type(result.score) is float
    assert result.metrics == {"score": float(value)}


@pytest.mark.parametrize(
    "value", [None, "0.9", True, np.bool_(True), torch.tensor(0.9), [0.9], 1j, float("nan"), float("-inf")]
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(StageError, match=r"what <lambda> returned is "):
        evaluate(lambda module: value)(start())


def test_a_tensor_gets_the_hint_that_helps() -> None:
    with pytest.raises(
        StageError, match=r"is a tensor of shape \(\) on cpu, expected a number\nhint: return value\.item\(\)"
    ):
        evaluate(lambda module: module(toys.X).mean())(start())


def test_eval_mode_without_gradients() -> None:
    seen: list[Any] = []

    def look(module: nn.Module) -> float:
        seen.extend([any(m.training for m in module.modules()), torch.is_grad_enabled()])
        return 0.0

    evaluate(look)(start(toys.net().train()))
    assert seen == [False, False]


def test_the_model_is_as_it_was() -> None:
    def vandal(module: nn.Module) -> float:
        module.train()(toys.X)
        nn.init.zeros_(module[0].weight)  # type: ignore[index]
        return 0.0

    before = start(toys.net().train())
    after = evaluate(vandal)(before)
    assert after.model is before.model
    assert before == start(toys.net().train())
    assert after.model.training


def test_the_last_score_counts() -> None:
    result = (evaluate(lambda m: 0.25) | evaluate(lambda m: 0.5))(start())
    assert (result.score, result.metrics["score"]) == (0.5, 0.5)


def test_a_function_is_expected() -> None:
    with pytest.raises(CompositionError, match=r"expected a function, got 0\.9"):
        evaluate(0.9)  # type: ignore[arg-type]


def test_a_tensor_of_several_numbers_is_told_to_be_reduced() -> None:
    with pytest.raises(StageError, match=r"shape \(3,\).*\nhint: reduce it to one number: value\.mean\(\)\.item\(\)"):
        evaluate(lambda module: torch.ones(3))(start())
