"""Schedules and pipelines as expressions: `schedule | stage | stage`, and what can be done with one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
from torch import Tensor, nn

from fprune.compose.call import Call
from fprune.compose.check import check, started
from fprune.compose.explain import Explanation, explained
from fprune.compose.refuse import kind_of, refusal
from fprune.compose.replay import foreseen, replayed
from fprune.compose.word import Stage
from fprune.config import Config, ConfigLike
from fprune.errors import CompositionError, ConfigTypeError
from fprune.model import Model
from fprune.records import Goal, Report, TaskResult
from fprune.run import Store, Stream, run
from fprune.tables import html_table


def _calls(calls: Call | Iterable[Call]) -> tuple[Call, ...]:
    found = (calls,) if isinstance(calls, Call) else tuple(calls)
    for call in found:
        if getattr(call.factory, "lifts", None) != "schedule":
            raise CompositionError(f"Schedule: expected calls of schedules, found {call!r}", hint="lift it: @schedule")
    if not found:
        raise CompositionError("Schedule: expected at least one call", hint="one_shot() is the shortest schedule")
    return found


@final
@attrs.frozen(repr=False)
class Schedule:
    """What the rounds of a run should reach, one goal after the other; a pure function of the reports so far.

    Examples:
        >>> from fprune.compose import schedule
        >>> @schedule
        ... def fractions(target, *values: float):
        ...     for value in values:
        ...         yield Goal(target.scaled(value), final=value == 1)
        >>> steps = fractions(0.5).then(fractions(1.0))
        >>> steps
        fractions(0.5).then(fractions(1.0))
        >>> steps.goals(Config(0.8))
        [Goal(Config(0.4)), Goal(Config(0.8), final=True)]

    Args:
        calls: the lifted generators, one after the other.
    """

    kind: ClassVar[str] = "schedule"

    calls: tuple[Call, ...] = attrs.field(converter=_calls)

    @property
    def needs(self) -> frozenset[str]:
        """What the rounds have to report, e.g. `score`."""
        return frozenset[str]().union(*(call.needs for call in self.calls))

    def then(self, other: "Schedule") -> "Schedule":
        """This schedule, and when it has no more goals the other one; each reads the reports of its own goals.

        Raises:
            CompositionError: the other is not a schedule.
        """
        if not isinstance(other, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CompositionError(
                f"{self!r}.then: expected a schedule, found {kind_of(other)}", hint="for example one_shot()"
            )
        return Schedule(self.calls + other.calls)

    def goal(self, target: Config, reports: Sequence[Report] = ()) -> Goal | None:
        """The goal of the round that follows the reported ones; None when there is none.

        Args:
            target: what the caller asked for.
            reports: one for each earlier round.

        Raises:
            ScheduleError: the schedule failed, or yielded something else than a goal.
        """
        return replayed(repr(self), self.calls, target, reports)

    def goals(self, target: Config, reports: Sequence[Report] = ()) -> list[Goal]:
        """The goals that are known before their rounds run; all of them when the schedule reads no reports."""
        return self.foreseen(target, reports)[0]

    def foreseen(self, target: Config, reports: Sequence[Report] = ()) -> tuple[list[Goal], bool]:
        """The goals up to the first look at a report that does not exist yet, and whether these are all."""
        return foreseen(repr(self), self.calls, target, reports)

    def __or__(self, other: Stage) -> "Pipeline":
        if not isinstance(other, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refusal(self, other)
        return Pipeline(self, other)

    if not TYPE_CHECKING:  # a type checker reports the foreign left operand because there is no such operator

        def __ror__(self, other: object) -> Any:
            raise refusal(other, self)

    def __repr__(self) -> str:
        first, *others = map(repr, self.calls)
        return first + "".join(f".then({other})" for other in others)


@final
@attrs.frozen(repr=False)
class Pipeline:
    """A pruning algorithm: a schedule, and the stages that every round goes through, in order.

    Examples:
        >>> import torch
        >>> from fprune.compose import pruner, schedule
        >>> from fprune.masks import Masks
        >>> @schedule
        ... def twice(target):
        ...     yield Goal(target.scaled(0.5))
        ...     yield Goal(target, final=True)
        >>> @pruner
        ... def first(params, config):
        ...     name, size = "weight", params["weight"].numel()
        ...     left = torch.arange(size) >= config.rules[0].sparsity * size
        ...     return Masks({name: left.reshape(params[name].shape)})
        >>> pipeline = twice() | first()
        >>> pipeline
        twice() | first()
        >>> net = torch.nn.Linear(4, 4)
        >>> [round(result.report.sparsity, 2) for result in pipeline.stream(net, 0.5)]
        [0.25, 0.5]
        >>> pipeline.run(net, 0.5).module()
        Linear(in_features=4, out_features=4, bias=True)

    Args:
        schedule: what each round should reach.
        stage: what each round does.
    """

    kind: ClassVar[str] = "pipeline"

    schedule: Schedule
    stage: Stage

    @property
    def needs(self) -> frozenset[str]:
        """What has to be there before a run: what the stages need and do not give themselves."""
        return self.stage.needs | (self.schedule.needs - self.stage.gives)

    @property
    def gives(self) -> frozenset[str]:
        """What is there after a run."""
        return self.stage.gives

    def stream(
        self,
        model: nn.Module | Model | TaskResult,
        config: ConfigLike | None = None,
        *,
        example_inputs: object = None,
        seed: int | None = None,
        store: Store | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Stream:
        """Describe a run; its rounds are made while the stream is iterated.

        Args:
            model: the network to prune, never changed; or a result to go on from, which brings its own config, seed
                and example inputs along. A config given with a result is the target from there on.
            config: what to prune and how much.
            example_inputs: what the model's forward takes: a tuple of positional arguments, a dict of keyword
                arguments, one tensor, or `inputs(...)`.
            seed: where all randomness of the run comes from; 0 when neither it nor a result is given.
            store: where results are kept.
            masks: what is masked already.

        Returns:
            An iterable of one `TaskResult` a round, which can be iterated again.

        Raises:
            CompositionError: the pipeline prunes nothing, or a stage lacks what it needs.
            ConfigError: a rule selects nothing, or asks for what cannot be.
            ModelError: the model cannot be pruned.
            ScheduleError: a goal that is known before the run cannot be met.
        """
        start = started(model, config, example_inputs=example_inputs, seed=seed, masks=masks)
        check(self.schedule, self.stage, start)
        if not isinstance(store, Store | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigTypeError(
                f"store: expected an object with latest and commit, got {store!r}", hint="leave it out to keep nothing"
            )
        return Stream(self.schedule.goal, self.stage, start, repr(self), store=store)

    def run(
        self,
        model: nn.Module | Model | TaskResult,
        config: ConfigLike | None = None,
        *,
        example_inputs: object = None,
        seed: int | None = None,
        store: Store | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> TaskResult:
        """Run every round and return the best result: the best score among final goals, else the last of them.

        Args:
            model: as in `stream`.
            config: as in `stream`.
            example_inputs: as in `stream`.
            seed: as in `stream`.
            store: as in `stream`.
            masks: as in `stream`.

        Returns:
            A result; `.model` is the pruned model, `.module()` a plain module of it.

        Raises:
            StageError: a stage failed; the message names the round and the stage.
        """
        return run(self.stream(model, config, example_inputs=example_inputs, seed=seed, store=store, masks=masks))

    def explain(self, model: nn.Module | Model, config: ConfigLike, *, example_inputs: object = None) -> Explanation:
        """Show what a run would do, before it does anything: rounds, layers, stages. Reads shapes only.

        Args:
            model: the network.
            config: what to prune and how much.
            example_inputs: as in `stream`.

        Returns:
            A record that prints as tables.

        Raises:
            FpruneError: as in `stream`.
        """
        start = started(model, config, example_inputs=example_inputs)
        check(self.schedule, self.stage, start)
        return explained(repr(self), self.schedule, self.stage, start)

    def __or__(self, other: Stage) -> "Pipeline":
        if not isinstance(other, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refusal(self, other)
        return Pipeline(self.schedule, self.stage | other)

    if not TYPE_CHECKING:

        def __ror__(self, other: object) -> Any:
            raise refusal(other, self)

    def __repr__(self) -> str:
        return f"{self.schedule!r} | {self.stage!r}"

    def _repr_html_(self) -> str:
        rows = [("schedule", repr(self.schedule), *_joined(self.schedule.needs, frozenset()))]
        rows += [
            (f"stage {i}", repr(call), *_joined(call.needs, call.gives)) for i, call in enumerate(self.stage.calls)
        ]
        return html_table(("", "expression", "needs", "gives"), rows, title=repr(self))


def _joined(*sets: frozenset[str]) -> tuple[str, ...]:
    return tuple(", ".join(sorted(names)) for names in sets)
