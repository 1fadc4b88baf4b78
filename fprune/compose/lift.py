"""The decorators that lift a function of records, of parameters or of a target into what `|` joins."""

from collections.abc import Callable, Iterator
from typing import Any, Concatenate, Literal, ParamSpec, overload

from fprune.compose.call import Call
from fprune.compose.factory import Declared, Factory, Reads
from fprune.compose.schedule import Schedule
from fprune.compose.word import Stage
from fprune.config import Config
from fprune.masks import Masks
from fprune.records import Goal, TaskResult
from fprune.setting import Setting
from fprune.trained import Trained

P = ParamSpec("P")


def _single(call: Call) -> Stage:
    return Stage((call,))


@overload
def stage(fn: Callable[Concatenate[TaskResult, P], TaskResult], /) -> Factory[P, Stage]: ...
@overload
def stage(
    *,
    needs: Declared = (),
    gives: Declared = (),
    check: Callable[..., object] | None = None,
    reads: Reads | Callable[..., Reads] = "record",
) -> Callable[[Callable[Concatenate[TaskResult, P], TaskResult]], Factory[P, Stage]]: ...
def stage(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    needs: Declared = (),
    gives: Declared = (),
    check: Callable[..., object] | None = None,
    reads: Reads | Callable[..., Reads] = "record",
) -> Any:
    """Lift `fn(result, *options) -> TaskResult` into a factory of stages.

    A run calls the function with the global random generators of torch, `random` and numpy seeded from
    `fold_in(seed, round, name)` and gradients enabled, and restores them afterwards.

    Examples:
        >>> @stage
        ... def scaled(result: TaskResult, factor: float) -> TaskResult:
        ...     params = {name: factor * p for name, p in result.model.items()}
        ...     return result.replace(model=result.model.replace(params=params))
        >>> scaled(0.5)
        scaled(0.5)
        >>> scaled()
        Traceback (most recent call last):
        ...
        fprune.errors.CompositionError: scaled: missing a required argument: 'factor'
        hint: its options are scaled(factor)

    Args:
        fn: the function; its first argument is the record so far.
        needs: what has to be there before, from `masks, score, example_inputs, structure`; a set, or a function of
            the options.
        gives: what is there afterwards; a set, or a function of the options.
        check: called with the options when the stage is written; raises when they make no sense.
        reads: what its outcome depends on, for a cache: `"record"`, all of it; `"tensors"`, model, masks, lineage, what
            is carried, the goal's config and the run's inputs, and not what stages and rounds before it reported,
            which it is then not shown either; `"world"`, more than the record, so that it is run each time; or
            `"nothing"`, since it is there for its effect and passes the record on as it is, run each time as well.

    Returns:
        A factory: called with the options it gives a `Stage`.
    """

    def lift(function: Callable[..., Any]) -> Factory[Any, Stage]:
        return Factory(function, _single, lifts="stage", needs=needs, gives=gives, check=check, reads=reads)

    return lift if fn is None else lift(fn)


@overload
def seeded_stage(fn: Callable[Concatenate[TaskResult, int, P], TaskResult], /) -> Factory[P, Stage]: ...
@overload
def seeded_stage(
    *,
    needs: Declared = (),
    gives: Declared = (),
    check: Callable[..., object] | None = None,
    reads: Reads | Callable[..., Reads] = "record",
) -> Callable[[Callable[Concatenate[TaskResult, int, P], TaskResult]], Factory[P, Stage]]: ...
def seeded_stage(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    needs: Declared = (),
    gives: Declared = (),
    check: Callable[..., object] | None = None,
    reads: Reads | Callable[..., Reads] = "record",
) -> Any:
    """Like `stage`, for `fn(result, seed, *options)`: the seed is this round's and this place's.

    Args:
        fn: the function.
        needs: what has to be there before.
        gives: what is there afterwards; a set, or a function of the options.
        check: called with the options when the stage is written.
        reads: what its outcome depends on, as in `stage`.

    Returns:
        A factory of stages.
    """

    def lift(function: Callable[..., Any]) -> Factory[Any, Stage]:
        return Factory(function, _single, lifts="stage", leading=2, needs=needs, gives=gives, check=check, reads=reads)

    return lift if fn is None else lift(fn)


@overload
def pruner(fn: Callable[Concatenate[Any, Config, P], Masks | Trained], /) -> Factory[P, Stage]: ...
@overload
def pruner(
    *, needs: Declared = (), check: Callable[..., object] | None = None, regrows: bool = False
) -> Callable[[Callable[Concatenate[Any, Config, P], Masks | Trained]], Factory[P, Stage]]: ...
def pruner(
    fn: Callable[..., Masks | Trained] | None = None,
    /,
    *,
    needs: Declared = (),
    check: Callable[..., object] | None = None,
    regrows: bool = False,
) -> Any:
    """Lift a pure function `(params, config, *options) -> Masks` into a factory of stages.

    In a run the function gets the scope of the round (a mapping name -> tensor that also knows the inherited masks)
    and the round's config; its masks are joined with the inherited ones and applied. Outside a run,
    `factory(...).masks(params, config)` and `factory.fn` are the pure function.

    A pruner that trains returns `Trained(masks, model, metrics)`. One whose masks may come back says `regrows=True`:
    what it returns takes the place of the inherited masks. After a compaction only what is still there can come back.

    Examples:
        >>> import torch
        >>> @pruner
        ... def negative(params, config):
        ...     return Masks({name: p >= 0 for name, p in params.items()})
        >>> negative().masks({"w": torch.tensor([[3.0, -1.0]])}, 0.5)["w"]
        tensor([[ True, False]])

    Args:
        fn: the function.
        needs: what it needs beyond the parameters, a set or a function of the options; what its options need is added.
        check: called with the options when the stage is written; raises when they make no sense.
        regrows: whether its masks replace the inherited ones, rather than being joined with them.

    Returns:
        A factory: called with the options it gives a `Stage`.
    """

    def lift(function: Callable[..., Any]) -> Factory[Any, Stage]:
        kept: dict[str, Any] = {"gives": ("masks",), "reads": "tensors", "regrows": regrows}
        return Factory(function, _single, lifts="pruner", leading=2, needs=needs, check=check, **kept)

    return lift if fn is None else lift(fn)


@overload
def schedule(fn: Callable[Concatenate[Config, P], Iterator[Goal]], /) -> Factory[P, Schedule]: ...
@overload
def schedule(
    *, needs: Declared = (), setting: Literal[False] = False, check: Callable[..., object] | None = None
) -> Callable[[Callable[Concatenate[Config, P], Iterator[Goal]]], Factory[P, Schedule]]: ...
@overload
def schedule(
    *, needs: Declared = (), setting: Literal[True], check: Callable[..., object] | None = None
) -> Callable[[Callable[Concatenate[Config, Setting, P], Iterator[Goal]]], Factory[P, Schedule]]: ...
def schedule(
    fn: Callable[..., Iterator[Goal]] | None = None,
    /,
    *,
    needs: Declared = (),
    setting: bool = False,
    check: Callable[..., object] | None = None,
) -> Any:
    """Lift a generator `fn(target, *options)` that yields goals into a factory of schedules.

    The generator may read what came of a goal: `report = yield Goal(...)`. It is run anew from the start with the
    recorded reports when a run is resumed, so what it yields may depend on its options and on reports, and on nothing
    else. Mark a goal `final` when it meets the target: `run` returns the best of those.

    Goals with `start="origin"` that are yielded before the reports of one another are looked at can run at the same
    time, where the caller gives an executor.

    Examples:
        >>> @schedule
        ... def halves(target: Config, rounds: int) -> Iterator[Goal]:
        ...     for t in range(1, rounds + 1):
        ...         yield Goal(target.scaled(1 - 0.5**t), final=t == rounds)
        >>> [goal.config for goal in halves(2).goals(Config.uniform(0.8))]
        [Config(0.4), Config(0.6...)]

    Args:
        fn: the generator function.
        needs: `("score",)` when it reads scores; a pipeline without `evaluate` is then refused.
        setting: the function is `fn(target, setting, *options)`; the `Setting` has the layers of the model, their
            shapes and couplings, and a seed for draws.
        check: called with the options when the schedule is written; raises when they make no sense.

    Returns:
        A factory: called with the options it gives a `Schedule`.
    """
    leading = 2 if setting else 1

    def lift(function: Callable[..., Any]) -> Factory[Any, Schedule]:
        return Factory(function, Schedule, lifts="schedule", leading=leading, needs=needs, check=check)

    return lift if fn is None else lift(fn)
