"""The task of a round: a goal, and the state it starts from."""

from typing import final

import attrs

from fprune.config import Config
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.plan import Plan
from fprune.report import Goal
from fprune.tables import html_table
from fprune.tree import same

__all__ = ["Task"]


def _resolved(task: "Task") -> Plan:
    return task.target.resolve(task.origin)


@final
@attrs.frozen(eq=False, repr=False)
class Task:
    """A goal and the state it starts from.

    Examples:
        >>> import torch
        >>> from fprune.records import TaskResult
        >>> task = TaskResult.start(torch.nn.Linear(3, 4), 0.5).task
        >>> task
        Task(round -1, Goal(Config(0.0)), Model(Linear, 2 params, 16 elements), seed=0)
        >>> print(task.plan)
        Plan: 1 of 1 layers
        layer   type    shape  rule  removes  note
        ------  ------  -----  ----  -------  ----
        weight  Linear  4x3    0     0.5

    Args:
        index: number of the round, from 0; -1 for the state before the first.
        goal: what to reach.
        model: the model to start from; of a round that is over the model it ended with, as its masks and lineage are,
            so that a result does not keep what came before it in memory.
        masks: its masks.
        seed: the run's seed; stages derive their own from it.
        target: the caller's config, which the last goal equals.
        origin: the model the run started from.
        lineage: where the indices of `model` come from.
        example_inputs: arguments of one forward pass, for stages that trace the model.
        structure: the trace of `model`, when there is one; derived data that equality leaves out.
        plan: `target` resolved on `origin`; derived, resolved once and handed on.
        origin_masks: the masks the run started with.
        origin_structure: the trace of `origin`, when there is one; derived.
    """

    index: int
    goal: Goal
    model: Model
    masks: Masks
    seed: int
    target: Config = attrs.field(kw_only=True)
    origin: Model = attrs.field(kw_only=True)
    lineage: Lineage = attrs.field(kw_only=True)
    example_inputs: Inputs | None = attrs.field(default=None, kw_only=True)
    structure: object | None = attrs.field(default=None, kw_only=True, eq=False)
    plan: Plan = attrs.field(default=attrs.Factory(_resolved, takes_self=True), kw_only=True, eq=False)
    origin_masks: Masks = attrs.field(factory=lambda: Masks({}), kw_only=True)
    origin_structure: object | None = attrs.field(default=None, kw_only=True, eq=False)

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Task) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors inside

    def __repr__(self) -> str:
        return f"Task(round {self.index}, {self.goal!r}, {self.model!r}, seed={self.seed})"

    def _repr_html_(self) -> str:
        rows = [("goal", repr(self.goal)), ("model", repr(self.model)), ("masks", repr(self.masks))]
        return html_table(("field", "value"), rows, title=f"Task of round {self.index}")
