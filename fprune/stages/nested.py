"""A whole pipeline as one stage."""

from typing import Literal

import attrs

from fprune.compose import Pipeline, seeded_stage
from fprune.compose.check import check
from fprune.compose.factory import Reads
from fprune.compose.prepare import prepared, streamed
from fprune.compose.refuse import kind_of
from fprune.errors import CompositionError
from fprune.records import TaskResult
from fprune.run import run

Keep = Literal["result", "config"]


def _checked(pipeline: Pipeline, *, keep: Keep = "result") -> None:
    if not isinstance(pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CompositionError(
            f"nested: expected a pipeline, found {kind_of(pipeline)}", hint="nested(agp(3) | level() | evaluate(fn))"
        )
    if keep not in ("result", "config"):
        raise CompositionError(
            f"nested: keep is {keep!r}", hint="'result' goes on with the model found, 'config' with its allocation"
        )


def _gives(pipeline: Pipeline, *, keep: Keep = "result") -> frozenset[str]:
    return pipeline.gives if keep == "result" else frozenset()


def _reads(pipeline: Pipeline, *, keep: Keep = "result") -> Reads:
    del keep
    return "world" if any(call.reads in ("world", "nothing") for call in pipeline.stage.calls) else "tensors"


@seeded_stage(gives=_gives, check=_checked, reads=_reads)
def nested(result: TaskResult, seed: int, pipeline: Pipeline, *, keep: Keep = "result") -> TaskResult:
    """Run a pipeline inside a round; its target is the round's config.

    The inner rounds begin with the round's model and masks, and an inner goal with `start="origin"` goes back to
    them. Sparsity still counts against the model the outer run began with.

    With `keep="config"` the inner run is a search: its best goal's config becomes the round's, and model and masks
    go back to what they were, for later stages to prune by that config:
    `lottery(5) | nested(search | level() | evaluate(f), keep="config") | level() | finetune(train)`.

    Examples:
        >>> import torch
        >>> from fprune.compose import schedule, pruner
        >>> from fprune.masks import Masks
        >>> from fprune.records import Goal
        >>> @schedule
        ... def once(target):
        ...     yield Goal(target, final=True)
        >>> @pruner
        ... def halve(params, config):
        ...     return Masks({"weight": torch.tensor([[True, False]])})
        >>> nested(once() | halve())
        nested(once() | halve())
        >>> (once() | nested(once() | halve())).run(torch.nn.Linear(2, 1), 0.5).report.sparsity
        0.5

    Args:
        result: the record so far; filled in by the run.
        seed: this stage's own seed; filled in by the run.
        pipeline: what to run.
        keep: what of the best inner result goes on: `"result"`, or only its `"config"`.

    Returns:
        The record with what is kept, and a note of what was found.

    Raises:
        FpruneError: as the inner run raises; a note names the inner round and stage.
    """
    target = result.goal.config
    task = attrs.evolve(
        result.task,
        index=-1,
        model=result.model,
        masks=result.masks,
        lineage=result.lineage,
        structure=result.structure,
        seed=seed,
        target=target,
        plan=target.resolve(result.origin),
    )
    entry = TaskResult(task, result.model, result.masks, structure=result.structure, carried=result.carried)
    entry, setting = prepared(pipeline.schedule, pipeline.stage, entry)
    check(pipeline.schedule, pipeline.stage, entry, setting)
    best = run(streamed(pipeline.schedule, pipeline.stage, entry, setting, repr(pipeline), entry=entry))
    note = f"nested: kept the {keep} of inner round {best.index}" + (
        "" if best.score is None else f", score {best.score:g}"
    )
    if keep == "config":
        goal = attrs.evolve(result.goal, config=best.goal.config)
        return result.replace(task=attrs.evolve(result.task, goal=goal), notes=(*result.notes, note))
    return result.replace(
        model=best.model,
        masks=best.masks,
        lineage=best.lineage,
        structure=best.structure,
        carried=best.carried,
        score=result.score if best.score is None else best.score,
        metrics=result.metrics.merged(best.metrics),
        notes=(*result.notes, note),
    )
