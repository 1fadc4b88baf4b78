"""What a stage may hand on: a record whose tensors and numbers are finite where they were before it."""

from typing import Any

from fprune.compose.call import Call
from fprune.compose.functions import finite
from fprune.errors import DivergenceError, StageError
from fprune.finite import all_finite, non_finite
from fprune.records import TaskResult

__all__ = ["checked"]


def checked(call: Call, before: TaskResult, out: Any) -> TaskResult:
    """What a stage returned, refused if it is no record, or if a number in it has become NaN or infinite.

    Only tensors that the stage replaced are looked at, each once.

    Raises:
        StageError: it is no record, or its score or a metric is not finite.
        DivergenceError: a tensor that was finite is not any more.
    """
    if not isinstance(out, TaskResult):
        raise StageError(
            f"{call!r} returned {type(out).__name__}, expected a TaskResult",
            hint="a stage ends with `return result.replace(...)`; to only look at a result use tap(fn)",
        )
    if out.model is not before.model:
        _refuse_diverged(call, before, out)
    if out.score is not None and out.score is not before.score:
        finite(out.score, f"{call!r}: the score")
    if out.metrics is not before.metrics:
        for name, value in out.metrics.items():
            finite(value, f"{call!r}: metrics[{name!r}]")
    return out


def _refuse_diverged(call: Call, before: TaskResult, after: TaskResult) -> None:
    old = {**before.model.params, **before.model.buffers}
    for name, value in (*after.model.params.items(), *after.model.buffers.items()):
        was = old.get(name)
        if was is None or was is value or all_finite(value):
            continue
        if all_finite(was):
            raise DivergenceError(
                f"{call!r}: '{name}' has {non_finite(value)}, and had none before",
                hint="nothing of this round is kept; go on from the last result, pipeline.stream(result), "
                "or by the same call when it has a store",
            )
