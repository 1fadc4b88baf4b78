"""A stage: what turns the record of a round into the next one; a word over calls of lifted functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
import torch
from torch import Tensor

from fprune.compose.call import Call
from fprune.compose.outcome import checked
from fprune.compose.prune import ensure_structure, pruned, pure_masks
from fprune.compose.reading import joined, shown
from fprune.compose.refuse import refusal
from fprune.config import Config
from fprune.errors import CompositionError, FpruneError, FpruneWarning, StageError
from fprune.isolation import isolated
from fprune.masks import Masks
from fprune.records import TaskResult
from fprune.tree import fold_in

Outcome = Callable[[int, int, TaskResult, Callable[[TaskResult], TaskResult]], TaskResult]


def _words(calls: Iterable[Call]) -> tuple[Call, ...]:
    found = tuple(calls)
    for call in found:
        if not isinstance(call, Call) or getattr(call.factory, "lifts", None) not in ("stage", "pruner"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CompositionError(
                f"Stage: expected calls of lifted functions, found {call!r}", hint="lift it with @stage or @pruner"
            )
    return found


@final
@attrs.frozen(repr=False)
class Stage:
    """A function `TaskResult -> TaskResult`, kept as the word of calls it consists of.

    `(a | b)(r) == b(a(r))`, `(a | b) | c == a | (b | c)`, and `Stage()` is the unit. Equality is structural.

    Examples:
        >>> from fprune.compose import stage
        >>> @stage
        ... def remember(result: TaskResult, note: str) -> TaskResult:
        ...     return result.replace(notes=(*result.notes, note))
        >>> twice = remember("a") | remember("b")
        >>> twice
        remember('a') | remember('b')
        >>> twice == Stage() | twice == twice | Stage()
        True

    Args:
        calls: the calls, in the order they run.
    """

    kind: ClassVar[str] = "stage"

    calls: tuple[Call, ...] = attrs.field(default=(), converter=_words)

    def __call__(self, result: TaskResult) -> TaskResult:
        """Apply the calls one after the other.

        Raises:
            StageError: a function failed, or returned something else than a `TaskResult`.
            DivergenceError: a tensor that was finite is not any more.
        """
        if not isinstance(result, TaskResult):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CompositionError(
                f"{self!r}: expected a TaskResult, found {type(result).__name__}",
                hint="run a network through a pipeline: (one_shot() | ...).run(net, config)",
            )
        return self.through(_afresh, result)

    def through(self, outcome: Outcome, result: TaskResult) -> TaskResult:
        """Apply the calls one after the other, with somebody who may know what comes of some of them.

        Args:
            outcome: called with the place of a call, its seed, what it is shown, and what makes its outcome.
            result: the record so far.
        """
        state, seen = result, Counter[str]()
        for place, call in enumerate(self.calls):
            # The seed depends on the round and on how often this name came before, not on what stands between: adding
            # a tap or an evaluation does not change what finetune draws.
            seed = fold_in(state.task.seed, state.index, call.name, seen[call.name])
            seen[call.name] += 1
            make = partial(_made, self.calls[place:], seed)
            state = joined(call, state, outcome(place, seed, shown(call, state), make))
        return state

    @property
    def needs(self) -> frozenset[str]:
        """What has to be there before: needed by a call and not given by an earlier one."""
        given, needed = frozenset[str](), frozenset[str]()
        for call in self.calls:
            needed |= call.needs - given
            given |= call.gives
        return needed

    @property
    def gives(self) -> frozenset[str]:
        """What is there afterwards."""
        return frozenset[str]().union(*(call.gives for call in self.calls))

    def masks(
        self,
        params: Mapping[str, Tensor],
        config: Config | Any,
        *,
        example_inputs: object = None,
        structure: object = None,
        masks: Masks | None = None,
        seed: int = 0,
    ) -> Masks:
        """The pure function of a pruner: what it would mask, without running anything else.

        Args:
            params: name -> tensor; a `Model` is one, and data-driven pruners need one.
            config: what to prune and how much, in any form that `Config.of` reads.
            example_inputs: for pruners that trace the model or run data through it.
            structure: a structure that was traced before.
            masks: what is masked already; it counts, and is not part of what comes back unless the pruner says so.
            seed: for pruners that draw.

        Returns:
            One bool mask per selected tensor.

        Raises:
            CompositionError: the stage is not one pruner.
        """
        if len(self.calls) != 1 or self.calls[0].factory.lifts != "pruner":
            raise CompositionError(
                f"{self!r}.masks: expected a stage of one pruner", hint="take the pruner alone: level().masks(...)"
            )
        return pure_masks(
            self.calls[0],
            params,
            Config.of(config),
            example_inputs=example_inputs,
            structure=structure,
            masks=masks,
            seed=seed,
        )

    def __or__(self, other: "Stage") -> "Stage":
        if not isinstance(other, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refusal(self, other)
        return Stage(self.calls + other.calls)

    if not TYPE_CHECKING:  # a type checker reports the foreign left operand because there is no such operator

        def run(self, *_: object, **__: object) -> Any:
            """Refuse to run, as long as no schedule says how many rounds there are."""
            raise CompositionError(
                f"{self!r}: there is no schedule, so nothing says how many rounds to run",
                hint=f"begin with one: one_shot() | {self!r}",
            )

        stream = explain = run

        def __ror__(self, other: object) -> Any:
            raise refusal(other, self)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.calls)) or "Stage()"


def _afresh(place: int, seed: int, state: TaskResult, make: Callable[[TaskResult], TaskResult]) -> TaskResult:
    """The outcome of a call by someone who knows nothing."""
    del place, seed
    return make(state)


def _made(calls: tuple[Call, ...], seed: int, state: TaskResult) -> TaskResult:
    """The outcome of the first of the calls that are left in a round."""
    if state.structure is None and any("structure" in call.needs for call in calls):
        # Traced before anything trains, so that a model that cannot be traced is refused at once.
        state = _isolated("tracing the model", state, 0, ensure_structure)
    return _isolated(repr(calls[0]), state, seed, partial(_outcome, calls[0], seed))


def _isolated(what: str, state: TaskResult, seed: int, make: Callable[[TaskResult], TaskResult]) -> TaskResult:
    """One step of a round, isolated from the process, with the place named in whatever it raises."""
    where = f"round {state.index}" if state.index >= 0 else "before the first round"
    try:
        # Grad mode is the same for every caller, so that a run inside no_grad or inference_mode is the same run.
        with isolated(seed), torch.inference_mode(False), torch.enable_grad():
            return make(state)
    except (FpruneError, FpruneWarning) as error:  # a warning that the user made an error
        error.add_note(f"in {where}, {what}")
        raise
    except Exception as error:
        raise StageError(
            f"{where}, {what}: {type(error).__name__}: {error}",
            hint="nothing of this round is kept; go on from the last result, pipeline.stream(result), "
            "or by the same call when it has a store",
        ) from error


def _outcome(call: Call, seed: int, state: TaskResult) -> TaskResult:
    if call.factory.lifts == "pruner":
        return checked(call, state, pruned(call, state, seed))
    return checked(call, state, call(state, seed) if call.factory.leading == 2 else call(state))
