"""What a stage is shown of a record, and how what it made of that comes back: it reads what it declares, no more.

A stage that reads tensors is shown a record without what earlier rounds and stages reported. So its outcome cannot
depend on that, and one made before, for the same tensors, is the outcome now.
"""

import attrs

from fprune.compose.call import Call
from fprune.records import Goal, TaskResult
from fprune.tree import Flat


def shown(call: Call, state: TaskResult) -> TaskResult:
    """What a stage that reads `tensors` is shown; all of the record for others.

    Examples:
        >>> import torch
        >>> from fprune import level, tap
        >>> state = TaskResult.start(torch.nn.Linear(2, 2), 0.5).replace(score=0.9, notes=("a",))
        >>> shown(level().calls[0], state), shown(tap(print).calls[0], state)
        (TaskResult(start, sparsity 0, channels 0), TaskResult(start, sparsity 0, channels 0, score 0.9))

    Args:
        call: the stage.
        state: the record so far.
    """
    if call.reads != "tensors":
        return state
    bare = {field: getattr(state, field) for field in ("model", "masks", "lineage", "structure")}
    task = attrs.evolve(state.task, goal=Goal(state.goal.config), **bare)
    return attrs.evolve(state, task=task, score=None, metrics=Flat[float](), history=(), notes=(), intermediate=())


def joined(call: Call, state: TaskResult, outcome: TaskResult) -> TaskResult:
    """The record with what a stage made of what it was shown.

    Examples:
        >>> import torch
        >>> from fprune import level
        >>> state, pruner = TaskResult.start(torch.nn.Linear(2, 2), 0.5).replace(notes=("a",)), level().calls[0]
        >>> joined(pruner, state, shown(pruner, state).replace(notes=("b",))).notes
        ('a', 'b')

    A stage that gives a score has the say about it, also when it gives none this time.

    Args:
        call: the stage.
        state: the record it was shown a part of.
        outcome: what it returned.
    """
    if call.reads != "tensors":
        return state if call.reads == "nothing" else outcome
    scores = "score" in call.gives
    before = state.metrics.without(["score"]) if scores else state.metrics
    goal = attrs.evolve(state.goal, config=outcome.goal.config)
    return state.replace(
        task=attrs.evolve(state.task, goal=goal, origin_structure=outcome.task.origin_structure),
        model=outcome.model,
        masks=outcome.masks,
        lineage=outcome.lineage,
        structure=outcome.structure,
        carried=outcome.carried,
        score=outcome.score if scores or outcome.score is not None else state.score,
        metrics=before.merged(outcome.metrics),
        notes=(*state.notes, *outcome.notes),
    )
