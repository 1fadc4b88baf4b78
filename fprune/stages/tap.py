"""Look at every round."""

from collections.abc import Callable

from fprune.compose import stage
from fprune.compose.call import expression
from fprune.compose.functions import callable_fn
from fprune.errors import StageError
from fprune.records import TaskResult


@stage(check=callable_fn, reads="nothing")
def tap(result: TaskResult, fn: Callable[[TaskResult], None]) -> TaskResult:
    """Show the record to a function, for logging or plotting, and pass it on as it is.

    Examples:
        >>> import torch
        >>> seen = []
        >>> result = tap(seen.append)(TaskResult.start(torch.nn.Linear(2, 2), 0.5))
        >>> seen[0] == result
        True

    Args:
        result: the record so far; filled in by the run.
        fn: called with the record; returns None.

    Returns:
        The same record.

    Raises:
        StageError: the function returned something, which would be lost.
    """
    returned: object = fn(result)
    if returned is not None:
        raise StageError(
            f"{expression(fn)} returned {type(returned).__name__}, and tap passes nothing on",
            hint="to change the record, lift the function with @stage",
        )
    return result
