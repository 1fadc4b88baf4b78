"""What is refused before anything runs: needs that nothing meets, goals that cannot be met, names that do not exist."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
from torch import Tensor, nn

from fprune.compose.call import expression
from fprune.compose.word import Stage
from fprune.config import Config, ConfigLike
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, FpruneError, ScheduleError
from fprune.inputs import Inputs
from fprune.isolation import isolated
from fprune.model import Model
from fprune.records import Goal, Report, TaskResult
from fprune.scope import Scope
from fprune.setting import Setting
from fprune.shrinking import refuse_less, same_selectors
from fprune.stream import reports

_HINTS = {
    "example_inputs": "pass what the model's forward takes: example_inputs=(x,)",
    "structure": "it is traced with what the model's forward takes: example_inputs=(x,)",
    "masks": "a pruner, such as level(), comes before it; or pass masks=...",
    "score": "a stage gives it: ... | evaluate(fn)",
}


class Foresight(Protocol):
    """The part of a schedule that is looked at here."""

    @property
    def needs(self) -> frozenset[str]:
        """What the rounds have to report."""
        ...

    @property
    def reads_setting(self) -> bool:
        """Whether it is told about the layers of the model."""
        ...

    @property
    def may_stop(self) -> bool:
        """Whether a condition may end it early."""
        ...

    def live(self, setting: Setting | None) -> Callable[[Config, Sequence[Report]], Goal | None]:
        """A function that gives the goal which follows some reports."""
        ...

    def foreseen(
        self,
        target: Config,
        reports: Sequence[Report] = (),
        *,
        setting: Setting | None = None,
        hopeful: bool = False,
    ) -> tuple[list[Goal], bool]:
        """The goals that are known, and whether these are all."""
        ...

    def stopped(self, target: Config, reports: Sequence[Report], *, setting: Setting | None = None) -> bool:
        """Whether a condition ended it after these reports."""
        ...


def started(
    model: nn.Module | Model | TaskResult,
    config: ConfigLike | None,
    *,
    example_inputs: object = None,
    seed: int | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> TaskResult:
    """The state a run goes on from: that of a fresh model, or a result with what is given in place of its own."""
    if not isinstance(model, TaskResult):
        if config is None:
            raise ConfigError("config: what to prune is not given", hint="a fraction such as 0.5, or a list of rules")
        return TaskResult.start(
            model, config, example_inputs=example_inputs, seed=0 if seed is None else seed, masks=masks
        )
    if masks is not None:
        raise ConfigError("masks: a result brings its own masks along", hint="leave masks out, or pass result.model")
    task = model.task
    if config is not None and Config.of(config) != task.target:
        target = Config.of(config)
        task = attrs.evolve(task, target=target, plan=target.resolve(task.origin))
    if seed is not None:
        if type(seed) is not int:
            raise ConfigTypeError(f"seed: expected an int, got {seed!r} ({type(seed).__name__})", hint="seed=0")
        task = attrs.evolve(task, seed=seed)
    if example_inputs is not None:
        task = attrs.evolve(task, example_inputs=Inputs.of(example_inputs))
    return model.replace(task=task)


def check(schedule: Foresight, stage: Stage, start: TaskResult, setting: Setting | None) -> None:
    """Refuse what cannot work, before the first round.

    Raises:
        CompositionError: nothing is pruned, or something needed is not there.
        ConfigError: a goal's rules do not fit the model.
        ScheduleError: a known goal asks for less than the one before it.
    """
    there = {"example_inputs", "structure"} if start.task.example_inputs is not None else set[str]()
    there |= {"structure"} if start.structure is not None else set[str]()
    there |= {"masks"} if start.masks or not start.lineage.is_identity else set[str]()
    if "masks" not in stage.gives | there:
        raise CompositionError(
            f"{stage!r}: no stage is a pruner, so the pipeline prunes nothing", hint="add one: ... | level()"
        )
    for call in stage.calls:
        missing = sorted(call.needs - there)
        if missing:
            raise CompositionError(
                f"{call!r} needs {missing[0]}, which nothing before it gives", hint=_HINTS[missing[0]]
            )
        there |= call.gives
    missing = sorted(schedule.needs - there)
    if missing:
        raise CompositionError(
            f"the schedule {schedule!r} reads {missing[0]}, which no stage gives", hint=_HINTS[missing[0]]
        )
    _check_carriers(stage)
    _check_goals(schedule, start, setting)
    if has_budget(start.task.target):
        _check_budgets(stage, start)


def _check_carriers(stage: Stage) -> None:
    """Refuse two functions of one name that carry a state: it is filed under the name."""
    found: dict[str, object] = {}
    for call in stage.calls:
        fn: object = call.args[0] if call.args else dict(call.kwargs).get("fn")
        if dict(call.kwargs).get("carries") is True and found.setdefault(expression(fn), fn) != fn:
            raise CompositionError(
                f"two functions named {expression(fn)} carry a state, and would be given each other's",
                hint="give one of them another name",
            )


def has_budget(config: Config) -> bool:
    """Whether a rule asks for a fraction of the whole model's FLOPs or parameters."""
    return any(rule.budget is not None for rule in config.rules)


def _check_budgets(stage: Stage, start: TaskResult) -> None:
    scope = Scope.from_result(start)
    for call in stage.calls:
        with isolated(seed=0):
            try:
                call.refuses(scope, start.task.target)
            except FpruneError as error:
                error.add_note(f"in {call!r}")
                raise


def _check_goals(schedule: Foresight, start: TaskResult, setting: Setting | None) -> None:
    past, target = reports(start), start.task.target
    goals, complete = schedule.foreseen(target, past, setting=setting, hopeful=True)
    if not goals and complete:
        raise ScheduleError(f"{schedule!r} has no goal", hint="a schedule yields at least one Goal")
    before = start.goal if past else None
    for position, goal in enumerate(goals[len(past) :], len(past)):
        if not same_selectors(goal.config, target):
            _check_names(goal, start, f"{schedule!r}, goal {position}")
        if goal.start == "previous" and before is not None:
            refuse_less(goal, before, start.origin, position, repr(schedule))
        before = goal


def _check_names(goal: Goal, start: TaskResult, where: str) -> None:
    try:
        goal.config.resolve(start.origin)
    except FpruneError as error:
        error.add_note(f"in {where}")
        raise
