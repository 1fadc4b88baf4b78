"""A schedule from two functions: where it begins, and what comes next."""

from collections.abc import Callable, Generator
from typing import Any

from fprune.compose import schedule
from fprune.config import Config
from fprune.errors import CompositionError
from fprune.records import Goal, Report

Init = Callable[[Config], Any]
Next = Callable[[Any, Report | None], tuple[Goal, Any] | None]


def _functions(init: Init, next: Next) -> None:
    for name, value in (("init", init), ("next", next)):
        if not callable(value):
            raise CompositionError(
                f"unfold: expected a function as {name}, got {type(value).__name__}",
                hint="init(target) gives a state, next(state, report) a goal and the next state, or None",
            )


@schedule(check=_functions)
def unfold(target: Config, init: Init, next: Next) -> Generator[Goal, Report, None]:
    """Build a schedule from a first state and a function to the next goal and state.

    state(0) = init(target); goal(t), state(t + 1) = next(state(t), report(t - 1)), until `next` returns None.

    Examples:
        >>> def first(target):
        ...     return [target.scaled(0.5), target]
        >>> def following(left, report):
        ...     return (Goal(left[0], final=len(left) == 1), left[1:]) if left else None
        >>> unfold(first, following).goals(Config(0.8))
        [Goal(Config(0.4)), Goal(Config(0.8), final=True)]

    Args:
        target: the caller's config; filled in by the run.
        init: makes the first state from the target.
        next: makes a goal and the next state from a state and the report of the goal before, which is None for the
            first; None ends the schedule. Both functions are pure: they are called again for every round.

    Returns:
        Goals.
    """
    report: Report | None = None
    state = init(target)
    while (step := next(state, report)) is not None:
        goal, state = step
        report = yield goal
