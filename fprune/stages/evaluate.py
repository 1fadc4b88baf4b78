"""Measure how good the model is."""

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from fprune.compose import stage
from fprune.compose.call import expression
from fprune.compose.functions import callable_fn, choice, finite
from fprune.records import TaskResult

Nan: TypeAlias = Literal["refuse", "record"]


def _check(fn: object, nan: object = "refuse") -> None:
    callable_fn(fn)
    choice(nan, "evaluate: nan", get_args(Nan))


@stage(gives=("score",), check=_check, reads="tensors")
def evaluate(result: TaskResult, fn: Callable[[nn.Module], Any], *, nan: Nan = "refuse") -> TaskResult:
    """Score the model with a function of a plain module; higher is better.

    The function gets a private copy in eval mode, and runs without gradients.

    Examples:
        >>> def negated_size(module):
        ...     return -sum(p.count_nonzero().item() for p in module.parameters())
        >>> start = TaskResult.start(nn.Linear(2, 3), 0.5)
        >>> evaluate(negated_size)(start).score
        -9.0
        >>> def undefined(module):
        ...     return float("nan")
        >>> unknown = evaluate(undefined, nan="record")(start)
        >>> unknown.score, unknown.notes
        (None, ('undefined returned nan: no score',))

    Args:
        result: the record so far; filled in by the run.
        fn: module -> finite number.
        nan: `"refuse"` ends the run at a NaN; `"record"` keeps the round without a score, and says so in its notes.
            `run` prefers any round that has a score.

    Returns:
        The record with `score`, and `metrics["score"]`.

    Raises:
        StageError: the function failed, or did not return a finite number.
        ConfigError: `nan` is another word.
    """
    with torch.no_grad():
        returned: object = fn(result.model.to_module().eval())
    if nan == "record" and isinstance(returned, Real) and returned != returned:
        note = f"{expression(fn)} returned nan: no score"
        return result.replace(score=None, metrics=result.metrics.without(["score"]), notes=(*result.notes, note))
    score = finite(
        returned,
        f"what {expression(fn)} returned",
        "0.0 counts as a bad score; evaluate(fn, nan='record') keeps a round without one",
    )
    return result.replace(score=score, metrics=result.metrics.merged({"score": score}))
