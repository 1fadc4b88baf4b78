"""A pipeline as an expression, `schedule | stage | stage`, and what can be done with one."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
from torch import Tensor, nn

from fprune.compose.check import check, started
from fprune.compose.explain import Explanation, explained
from fprune.compose.foretell import foretold
from fprune.compose.prepare import prepared, streamed
from fprune.compose.refuse import refusal
from fprune.compose.word import Stage
from fprune.config import ConfigLike
from fprune.errors import ConfigTypeError
from fprune.model import Model
from fprune.records import Report, TaskResult
from fprune.run import run
from fprune.store import Storage, parted
from fprune.stream import Stream
from fprune.tables import html_table

if TYPE_CHECKING:  # a schedule joined to a stage is a pipeline, and so imports this file
    from fprune.compose.schedule import Schedule


@final
@attrs.frozen(repr=False)
class Pipeline:
    """A pruning algorithm: a schedule, and the stages that every round goes through, in order.

    Examples:
        >>> import torch
        >>> from fprune.compose import pruner, schedule
        >>> from fprune.masks import Masks
        >>> from fprune.records import Goal
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

    schedule: "Schedule"
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
        store: Storage | None = None,
        masks: Mapping[str, Tensor] | None = None,
        executor: Executor | None = None,
    ) -> Stream:
        """Describe a run; its rounds are made while the stream is iterated.

        Args:
            model: the network to prune, never changed; or a result to go on from, which brings its own config, seed
                and example inputs along. A config given with a result is the target from there on.
            config: what to prune and how much.
            example_inputs: what the model's forward takes: a tuple of positional arguments, a dict of keyword
                arguments, one tensor, or `inputs(...)`.
            seed: where all randomness of the run comes from; 0 when neither it nor a result is given.
            store: where results are kept: a folder, from which the same call goes on when it was interrupted, or what
                `run_folder` gives; what `stage_cache` gives keeps what stages made, to be used by any run.
            masks: what is masked already.
            executor: where rounds that do not depend on each other run, such as a `ProcessPoolExecutor`, loky's or
                Dask's. These are rounds that start from the origin and whose goals are known together, as those of
                `evolve` or of a scan; up to 64 of them run ahead. Results, and their order, are the same with any
                executor and with none. Threads take turns, since the random generators are one for the process.

        Returns:
            An iterable of one `TaskResult` a round, which can be iterated again.

        Raises:
            CompositionError: the pipeline prunes nothing, or a stage lacks what it needs.
            ConfigError: a rule selects nothing, or asks for what cannot be.
            ModelError: the model cannot be pruned.
            ScheduleError: a goal that is known before the run cannot be met.
            CheckpointError: while it is iterated: the folder holds another run, or a result cannot be kept.
        """
        start = started(model, config, example_inputs=example_inputs, seed=seed, masks=masks)
        rounds, cache = parted(store)
        _refuse_foreign("executor", executor, Executor, "an executor", "ThreadPoolExecutor(), or leave it out")
        start, setting = prepared(self.schedule, self.stage, start, ahead=executor is not None)
        check(self.schedule, self.stage, start, setting)
        return streamed(
            self.schedule, self.stage, start, setting, repr(self), store=rounds, cache=cache, executor=executor
        )

    def run(
        self,
        model: nn.Module | Model | TaskResult,
        config: ConfigLike | None = None,
        *,
        example_inputs: object = None,
        seed: int | None = None,
        store: Storage | None = None,
        masks: Mapping[str, Tensor] | None = None,
        executor: Executor | None = None,
        best: Callable[[Report], Any] | None = None,
        keep_intermediate_result: bool = False,
    ) -> TaskResult:
        """Run every round and return the best result: the best score among final goals, else the last of them.

        Examples:
            >>> import torch
            >>> from fprune import agp, level, linear
            >>> net, smallest = torch.nn.Linear(4, 4), lambda report: report.sparsity if report.sparsity < 0.4 else None
            >>> (linear(4) | level()).run(net, 0.5, best=smallest).goal
            Goal(Config(0.375))
            >>> result = (linear(4) | level()).run(net, 0.5, keep_intermediate_result=True)
            >>> [round(r.report.sparsity, 2) for r in result.intermediate]
            [0.0, 0.12, 0.25, 0.38, 0.5]

        Args:
            model: as in `stream`.
            config: as in `stream`.
            example_inputs: as in `stream`.
            seed: as in `stream`.
            store: as in `stream`.
            masks: as in `stream`.
            executor: as in `stream`.
            best: which result to return: a function of a report whose largest value wins, the later of equal ones;
                None says that a result should not be returned while there is another.
            keep_intermediate_result: keep the results of all rounds in the result's `intermediate`.

        Returns:
            A result; `.model` is the pruned model, `.module()` a plain module of it.

        Raises:
            StageError: a stage failed; the message names the round and the stage.
        """
        if best is not None and not callable(best):
            hint = "best=lambda report: report.score"
            raise ConfigTypeError(f"best: expected a function of a report, got {best!r}", hint=hint)
        stream = self.stream(
            model, config, example_inputs=example_inputs, seed=seed, store=store, masks=masks, executor=executor
        )
        return run(stream, best=best, keep_intermediate_result=keep_intermediate_result)

    def explain(
        self,
        model: nn.Module | Model | TaskResult,
        config: ConfigLike | None = None,
        *,
        example_inputs: object = None,
        seed: int | None = None,
        store: Storage | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Explanation:
        """Show what a run would do, before it does anything: rounds, layers, stages, and what a store has of them.

        It runs no stage, and without a store it reads shapes only.

        Args:
            model: as in `stream`.
            config: as in `stream`.
            example_inputs: as in `stream`.
            seed: as in `stream`.
            store: as in `stream`; what is there already is told too, as far as that is known without running.
            masks: as in `stream`.

        Returns:
            A record that prints as tables.

        Raises:
            FpruneError: as in `stream`.
        """
        start = started(model, config, example_inputs=example_inputs, seed=seed, masks=masks)
        rounds, cache = parted(store)
        start, setting = prepared(self.schedule, self.stage, start)
        check(self.schedule, self.stage, start, setting)
        found = explained(repr(self), self.schedule, self.stage, start, setting)
        if store is None:
            return found
        stream = streamed(self.schedule, self.stage, start, setting, repr(self))
        return attrs.evolve(found, kept=foretold(self.stage, stream, rounds, cache))

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


def _refuse_foreign(name: str, value: object, kind: type, expected: str, hint: str) -> None:
    if not isinstance(value, kind | None):
        raise ConfigTypeError(f"{name}: expected {expected}, got {value!r}", hint=hint)
