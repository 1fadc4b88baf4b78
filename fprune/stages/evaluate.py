"""Measure how good the model is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fprune.compose import stage
from fprune.compose.call import expression
from fprune.compose.functions import callable_fn, finite
from fprune.records import TaskResult


@stage(gives=("score",), check=callable_fn)
def evaluate(result: TaskResult, fn: Callable[[nn.Module], Any]) -> TaskResult:
    """Score the model with a function of a plain module; higher is better.

    The function gets a private copy in eval mode, and runs without gradients.

    Examples:
        >>> def negated_size(module):
        ...     return -sum(p.count_nonzero().item() for p in module.parameters())
        >>> evaluate(negated_size)(TaskResult.start(nn.Linear(2, 3), 0.5)).score
        -9.0

    Args:
        result: the record so far; filled in by the run.
        fn: module -> finite number.

    Returns:
        The record with `score`, and `metrics["score"]`.

    Raises:
        StageError: the function failed, or did not return a finite number.
    """
    with torch.no_grad():
        score = finite(fn(result.model.to_module().eval()), f"what {expression(fn)} returned")
    return result.replace(score=score, metrics=result.metrics.merged({"score": score}))
