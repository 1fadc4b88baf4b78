"""Train what is left."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

from torch import nn

from fprune.compose import stage
from fprune.compose.call import expression
from fprune.compose.functions import callable_fn, choice
from fprune.errors import ConfigTypeError, DivergenceError
from fprune.records import TaskResult
from fprune.training import Train, trained
from fprune.training.carried import Carrier, carrying

OnDiverge: TypeAlias = Literal["refuse", "rollback"]


def _check(fn: object, *, on_diverge: object = "refuse", carries: object = False) -> None:
    callable_fn(fn)
    choice(on_diverge, "finetune: on_diverge", get_args(OnDiverge))
    if not isinstance(carries, bool):
        raise ConfigTypeError(f"finetune: carries: expected True or False, got {carries!r}", hint="carries=True")


@stage(check=_check, reads="tensors")
def finetune(
    result: TaskResult,
    fn: Callable[[nn.Module], Any] | Carrier,
    *,
    carries: bool = False,
    on_diverge: OnDiverge = "refuse",
) -> TaskResult:
    """Train a private copy of the model with the user's own loop, pruned weights held at zero.

    The copy is a plain module with the original's train and eval flags. The loop makes its own optimizer and may move
    the module to another device; the values come back to where they were. The global random generators are seeded
    for the round and restored afterwards.

    Examples:
        >>> import torch
        >>> def train(module):
        ...     sgd = torch.optim.SGD(module.parameters(), lr=0.1)
        ...     loss = module(torch.ones(4, 2)).square().mean()
        ...     loss.backward()
        ...     sgd.step()
        ...     return {"loss": loss.item()}
        >>> net = torch.nn.Linear(2, 1)
        >>> result = finetune(train)(TaskResult.start(net, 0.5))
        >>> list(result.metrics), torch.equal(result.model["weight"], net.weight)
        (['loss'], False)

    With `carries=True` the function is `fn(module, state) -> (metrics, state)`: what it returns as state, such as
    `optimizer.state_dict()`, it is given in the next round, also when that runs in another process. It is None in the
    first round, after a `reset_weight()` and in rounds that start from the origin, and is cut along with the model by
    a `speed_up()`:

        >>> def with_momentum(module, state):
        ...     sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        ...     if state is not None:
        ...         sgd.load_state_dict(state)
        ...     module(torch.ones(4, 2)).square().mean().backward()
        ...     sgd.step()
        ...     return None, sgd.state_dict()
        >>> list(finetune(with_momentum, carries=True)(TaskResult.start(net, 0.5)).carried)
        ['with_momentum']

    Args:
        result: the record so far; filled in by the run.
        fn: trains the module in place; returns None, the module, or numbers by name, which become metrics. When it
            carries, a pair of these (no module) and a tree of tensors, numbers and texts in dicts, lists and tuples.
        carries: whether the function carries a state from one round to the next.
        on_diverge: what to do when training leaves NaN or infinity in a tensor that was finite: `"refuse"` ends the
            run before this round is kept; `"rollback"` goes on with the model from before the training, and says so in
            the notes.

    Returns:
        The record with the trained model.

    Raises:
        StageError: the function failed, changed names or shapes, un-zeroed pruned weights other than by an optimizer
            step, or returned something else.
        DivergenceError: training made a value non-finite.
        ConfigError: `on_diverge` is another word.
    """
    train, carried = carrying(cast(Carrier, fn), result.carried) if carries else (cast(Train, fn), None)
    try:
        model, metrics = trained(result.model, result.masks, train)
    except DivergenceError as error:
        if on_diverge == "refuse":
            raise
        note = f"{expression(fn)} diverged and was rolled back: {error.message}"
        return result.replace(notes=(*result.notes, note))
    after = result.carried if carried is None else carried()
    return result.replace(model=model, metrics=result.metrics.merged(metrics), carried=after)
