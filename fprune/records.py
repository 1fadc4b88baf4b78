"""The records of a run: what to reach, from where, and what came of it.

Every record is frozen and equal by value; `fprune.tree.map` reaches the tensors inside.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self, final

import attrs
from torch import Tensor, nn

from fprune.checkpoint.save import save
from fprune.config import Config, ConfigLike
from fprune.counting import Realised, realised
from fprune.errors import ConfigTypeError
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.pytrees import register, register_inputs
from fprune.report import Goal, Report, as_flat, each_once
from fprune.task import Task
from fprune.tree import Flat, same

__all__ = ["Goal", "Realised", "Report", "Task", "TaskResult"]


def _origin(result: "TaskResult") -> Model:
    return result.task.origin


def _lineage(result: "TaskResult") -> Lineage:
    return result.task.lineage


@final
@attrs.frozen(eq=False, repr=False)
class TaskResult:
    """What a round made: the stream's item, the loop's state and the checkpoint.

    Examples:
        >>> result = TaskResult.start(nn.Linear(3, 4), 0.5)
        >>> result
        TaskResult(start, sparsity 0, channels 0)
        >>> result.next(Goal(0.25)).index
        0

    Args:
        task: the goal and the state the round started from.
        model: the model now.
        masks: the masks of `model`, in its own coordinates.
        score: the evaluator's number, higher is better.
        metrics: other numbers that stages reported.
        history: reports of the earlier rounds, oldest first.
        origin: the model the run started from; the task's by default.
        lineage: where the indices of `model` come from; the task's by default.
        structure: the trace of `model`, when there is one; derived data that equality leaves out.
        notes: remarks of this round's stages, each once.
        carried: what functions carry from one round to the next, such as the state of an optimizer, by the function's
            name.
        intermediate: the results of all rounds, oldest first, where `run` was told to keep them.
    """

    task: Task
    model: Model
    masks: Masks
    score: float | None = attrs.field(default=None, kw_only=True)
    metrics: Flat[float] = attrs.field(factory=Flat[float], converter=as_flat, kw_only=True)
    history: tuple[Report, ...] = attrs.field(default=(), kw_only=True)
    origin: Model = attrs.field(default=attrs.Factory(_origin, takes_self=True), kw_only=True)
    lineage: Lineage = attrs.field(default=attrs.Factory(_lineage, takes_self=True), kw_only=True)
    structure: object | None = attrs.field(default=None, kw_only=True, eq=False)
    notes: tuple[str, ...] = attrs.field(default=(), converter=each_once, kw_only=True)
    carried: Flat[Any] = attrs.field(factory=Flat[Any], kw_only=True)
    intermediate: tuple["TaskResult", ...] = attrs.field(default=(), kw_only=True, eq=False)

    @classmethod
    def start(
        cls,
        model: Model | nn.Module,
        config: ConfigLike,
        *,
        example_inputs: object = None,
        seed: int = 0,
        masks: Mapping[str, Tensor] | None = None,
        structure: object | None = None,
    ) -> "TaskResult":
        """Return the state before round 0: nothing pruned but what `masks` already prune.

        Examples:
            >>> TaskResult.start(nn.Linear(2, 4), 0.5, seed=3).masks
            Masks()

        Args:
            model: the module or model to prune; it is copied, never changed.
            config: the target.
            example_inputs: a tuple of arguments, a dict of keyword arguments, one tensor, or `inputs(...)`.
            seed: an integer from which every random draw of the run derives.
            masks: masks to start with, by parameter name.
            structure: the trace of `model`, when there is one.

        Returns:
            A result with index -1.

        Raises:
            ConfigError: the config does not fit the model.
            ModelError: the model or the masks cannot be used.
        """
        origin, target = Model.of(model), Config.of(config)
        initial = masks if isinstance(masks, Masks) else Masks(masks or {})
        task = Task(
            -1,
            Goal(target.scaled(0.0)),
            _masked(origin, initial),
            initial,
            _seed(seed),
            target=target,
            origin=origin,
            lineage=Lineage.identity(origin),
            example_inputs=Inputs.of(example_inputs),
            structure=structure,
            origin_masks=initial,
            origin_structure=structure,
        )
        return cls(task, task.model, initial, structure=structure)

    def next(self, goal: Goal) -> "TaskResult":
        """Return the next round's state before its first stage: the goal, what it inherits, the history so far.

        Examples:
            >>> first = TaskResult.start(nn.Linear(2, 4), 0.5).next(Goal(0.25))
            >>> first.index, first.goal, first.next(Goal(0.5, final=True)).history
            (0, Goal(Config(0.25)), (Report(round 0, sparsity 0, channels 0),))

        Args:
            goal: what the next round is to reach; `goal.start` says which state it inherits.

        Returns:
            A result with the next index, and this round's report in its history.
        """
        task = self.task
        # Until something is compacted, a trace of the model is one of the origin too.
        uncut = self.structure if self.lineage.is_identity else None
        traced = uncut if task.origin_structure is None else task.origin_structure
        again = goal.start == "origin"
        following = attrs.evolve(
            task,
            index=task.index + 1,
            goal=goal,
            model=_masked(task.origin, task.origin_masks) if again else self.model,
            masks=task.origin_masks if again else self.masks,
            lineage=Lineage.identity(task.origin) if again else self.lineage,
            structure=traced if again else self.structure,
            origin_structure=traced,
        )
        history = self.history if task.index < 0 else (*self.history, self.report)
        carried = Flat[Any]() if again else self.carried
        return TaskResult(
            following, following.model, following.masks, history=history, structure=following.structure, carried=carried
        )

    @property
    def index(self) -> int:
        """Number of the round, from 0; -1 before the first."""
        return self.task.index

    @property
    def goal(self) -> Goal:
        """What the round was to reach."""
        return self.task.goal

    @property
    def report(self) -> Report:
        """This round without its tensors; sparsity is counted on the original model."""
        selected = self.task.plan.selected
        channels, elements = realised((row.layer for row in selected), self.model, self.masks, self.lineage)
        frozen = [f"{row.layer.weight} is {row.note}" for row in selected if row.note]
        last = [f"{name} keeps its last channel" for name, n in channels.items() if 1 == n.total - n.removed < n.total]
        notes = (*self.notes, *frozen, *last)
        return Report(self.index, self.goal, self.score, self.metrics, channels, elements, notes)

    def replace(self, **changes: Any) -> Self:
        """Return a result with some fields changed; a model of other shapes drops the trace of the old one.

        Examples:
            >>> TaskResult.start(nn.Linear(2, 4), 0.5).replace(score=0.9)
            TaskResult(start, sparsity 0, channels 0, score 0.9)

        Args:
            changes: new values by field name.

        Returns:
            The changed result.
        """
        if "model" in changes and "structure" not in changes and _shapes(changes["model"]) != _shapes(self.model):
            changes = {**changes, "structure": None}
        return attrs.evolve(self, **changes)

    def module(self) -> nn.Module:
        """Return the model as a plain module that shares nothing with this record."""
        return self.model.to_module()

    def save(self, path: str | PathLike[str]) -> None:
        """Write this result into a new folder, without code; `fprune.load(path, template)` reads it.

        Examples:
            >>> import tempfile
            >>> from fprune import level, load, one_shot
            >>> result = (one_shot() | level()).run(nn.Linear(4, 2), 0.5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     result.save(f"{folder}/small")
            ...     load(f"{folder}/small", nn.Linear(4, 2)) == result
            True

        Args:
            path: the folder; there must be nothing yet.

        Raises:
            CheckpointError: there is something, or it cannot be written; then nothing is left of it.
        """
        save(self, path)

    def metrics_dict(self) -> dict[str, float]:
        """Return one flat dict of numbers for a logger: the report's, and the number of parameters."""
        return {**self.report.metrics_dict(), "model/params": float(self.model.num_params)}

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, TaskResult) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors inside

    def __repr__(self) -> str:
        return f"TaskResult({repr(self.report).partition('(')[2]}"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()  # pyright: ignore[reportPrivateUsage]


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigTypeError(f"seed: expected an int, got {value!r} ({type(value).__name__})", hint="seed=0")
    return value


def _masked(model: Model, masks: Masks) -> Model:
    return model.replace(params=masks.apply(model)) if masks else model


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for part in (model.params, model.buffers) for name, value in part.items()}


# The one place where optree learns the records; a field that is not named here is carried along, not mapped.
register(Flat, "_data")
register(Masks, "_data")
register(Model, "params", "buffers")
register(Lineage, "kept", "masks")
register_inputs()
register(Goal)
register(Report)
register(Task, "model", "masks", "origin", "lineage", "example_inputs", "origin_masks")
register(TaskResult, "task", "model", "masks", "origin", "lineage")
