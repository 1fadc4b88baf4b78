"""What a run would do, as a record that prints: rounds, layers, stages."""

from collections.abc import Sequence
from typing import Any, final

import attrs

from fprune.compose.check import Foresight
from fprune.compose.prune import ensure_structure
from fprune.compose.word import Stage
from fprune.isolation import isolated
from fprune.plan import Plan
from fprune.records import Goal, TaskResult
from fprune.rule import Rule
from fprune.setting import Setting
from fprune.tables import html_table, text_table

_ROUNDS = ("round", "removes", "starts from", "final")
_STAYING = ("layer", "why")
_STAGES = ("stage", "needs", "gives", "does")
_KEPT = ("round", "stage", "is")


@final
@attrs.frozen(repr=False)
class Explanation:
    """Rounds, layers and stages of a pipeline for one model, before anything runs.

    Args:
        pipeline: the expression.
        goals: the goals known before the run.
        complete: whether these are all; if not, the schedule decides on results.
        plan: which layers the config selects.
        stages: expression, needs, gives and one line for each stage.
        structure: what lives and dies together, when a stage needs it.
        staying: selected layers that will not lose what the plan asks, and why.
        may_stop: whether a condition may end the rounds early.
        kept: round and stage, and whether it is `done`, is `reused`, `runs`, or is `unknown`, where a store was given.
    """

    pipeline: str
    goals: tuple[Goal, ...]
    complete: bool
    plan: Plan
    stages: tuple[tuple[str, str, str, str], ...]
    structure: Any = attrs.field(default=None, eq=False)
    staying: tuple[tuple[str, str], ...] = ()
    may_stop: bool = False
    kept: tuple[tuple[str, str, str], ...] = ()

    @property
    def rounds(self) -> tuple[tuple[str, str, str, str], ...]:
        """Round, what it removes (one number a rule), what it starts from, whether it meets the target."""
        rows = [(str(i), _amounts(goal), goal.start, "yes" if goal.final else "") for i, goal in enumerate(self.goals)]
        further = [] if self.complete else [(f"{len(rows)}, ...", "depends on results", "", "")]
        early = [("", "may end before", "", "")] if self.may_stop else []
        return (*rows, *further, *early)

    def __str__(self) -> str:
        rounds = text_table(_ROUNDS, self.rounds, title="Rounds, sparsity measured on the original model")
        parts = [self.pipeline, rounds, text_table(_STAGES, self.stages, title="Each round"), str(self.plan)]
        if self.staying:
            parts.append(text_table(_STAYING, self.staying, title="Not as asked"))
        if self.kept:
            parts.append(text_table(_KEPT, self.kept, title="What is there already"))
        return "\n\n".join(parts if self.structure is None else [*parts, str(self.structure)])

    def __repr__(self) -> str:
        count = f"{len(self.goals)} rounds" if self.complete else f"{len(self.goals)} or more rounds"
        return f"Explanation({self.pipeline}, {count}, {self.plan!r})"

    def _repr_html_(self) -> str:
        rounds = html_table(_ROUNDS, self.rounds, title=self.pipeline)
        shown: list[Any] = [self.plan] if self.structure is None else [self.plan, self.structure]
        staying = html_table(_STAYING, self.staying, title="Not as asked") if self.staying else ""
        kept = html_table(_KEPT, self.kept, title="What is there already") if self.kept else ""
        stages = html_table(_STAGES, self.stages, title="Each round")
        return rounds + stages + staying + kept + "".join(x._repr_html_() for x in shown)


def explained(
    pipeline: str, schedule: Foresight, stage: Stage, start: TaskResult, setting: Setting | None
) -> Explanation:
    """The explanation of a pipeline that has been checked."""
    goals, complete = schedule.foreseen(start.task.target, setting=setting, hopeful=True)
    structure: object = None
    if any("structure" in call.needs for call in stage.calls):
        with isolated():
            structure = ensure_structure(start).structure
    plan = start.task.plan
    told = (
        {} if structure is None else {k: v for call in stage.calls for k, v in call.foresees(structure, plan).items()}
    )
    rows = tuple(_stage_rows(stage))
    return Explanation(
        pipeline, tuple(goals), complete, plan, rows, structure, tuple(told.items()), may_stop=schedule.may_stop
    )


def _stage_rows(stage: Stage) -> Sequence[tuple[str, str, str, str]]:
    return [
        (repr(call), ", ".join(sorted(call.needs)), ", ".join(sorted(call.gives)), _summary(call.fn))
        for call in stage.calls
    ]


def _summary(fn: Any) -> str:
    """The first line of a function's docstring."""
    lines = (fn.__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def _amounts(goal: Goal) -> str:
    return ", ".join("excluded" if rule.exclude else _amount(rule) for rule in goal.config.rules)


def _amount(rule: Rule) -> str:
    if rule.budget is None:
        return f"{rule.amount:.4g}"
    return " and ".join(f"{part:.4g} of {key}" for key, part in rule.budget.items())
