"""What a run is given before its first round: the trace it needs, the setting of its schedule, the stream."""

from concurrent.futures import Executor

import attrs

from fprune.compose.check import Foresight, has_budget
from fprune.compose.prune import traced
from fprune.compose.word import Stage
from fprune.isolation import isolated
from fprune.records import TaskResult
from fprune.setting import Setting
from fprune.store.cache import StageCache
from fprune.stream import Store, Stream
from fprune.tree import fold_in


def prepared(
    schedule: Foresight, stage: Stage, start: TaskResult, *, ahead: bool = False
) -> tuple[TaskResult, Setting | None]:
    """The state a run starts from, and what its schedule is told about it.

    The model is traced now if the schedule needs the structure, or if a stage does and the schedule reads the setting
    or a budget has to be checked; otherwise in the first round. Rounds that run ahead of each other share one trace.
    """
    early = schedule.reads_setting or ahead or has_budget(start.task.target)
    needs = schedule.needs | (stage.needs if early else frozenset[str]())
    if "structure" in needs and start.task.example_inputs is not None:
        start = _traced(start)
    if not schedule.reads_setting:
        return start, None
    coupled = any(call.couples for call in stage.calls)
    return start, Setting.at(start, fold_in(start.task.seed, "schedule"), coupled=coupled)


def _traced(start: TaskResult) -> TaskResult:
    """The state with the trace of the model the run began with."""
    task, uncut = start.task, start.lineage.is_identity
    if task.origin_structure is not None:
        return start
    found = start.structure if uncut else None
    if found is None:
        with isolated(seed=0):
            found = traced(task.origin, task.example_inputs)
    of_task = found if task.structure is None and task.lineage.is_identity else task.structure
    task = attrs.evolve(task, origin_structure=found, structure=of_task)
    return start.replace(task=task, structure=found if uncut else start.structure)


def streamed(
    schedule: Foresight,
    stage: Stage,
    start: TaskResult,
    setting: Setting | None,
    name: str,
    *,
    entry: TaskResult | None = None,
    store: Store | None = None,
    cache: StageCache | None = None,
    executor: Executor | None = None,
) -> Stream:
    """The rounds of a schedule and a stage from a state on."""
    return Stream(
        schedule.live(setting),
        stage if cache is None else cache.step(stage.calls, stage.through, start),
        start,
        name,
        entry=entry,
        store=store,
        executor=executor,
        ahead=lambda target, past: schedule.foreseen(target, past, setting=setting)[0][len(past) :],
        stopped=(lambda target, past: schedule.stopped(target, past, setting=setting)) if schedule.may_stop else None,
    )
