"""What a pruner does to a record: ask the pure function for masks, check them, join and apply them."""

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from fprune.checkpoint.form import generated
from fprune.compose.call import Call
from fprune.compose.functions import numbers
from fprune.config import Config
from fprune.errors import CompositionError, StageError
from fprune.inputs import Inputs
from fprune.isolation import isolated
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import TaskResult
from fprune.scope import Scope
from fprune.structure import Structure, repeated, trace
from fprune.trained import Trained
from fprune.tree import Flat


def traced(model: Model, example_inputs: Inputs | None) -> object:
    """The structure of a model.

    Raises:
        CompositionError: there are no example inputs to trace it with.
    """
    if example_inputs is None:
        raise CompositionError(
            "the structure of the model is needed, and example_inputs are not given",
            hint="pass what the model's forward takes: example_inputs=(x,)",
        )
    return trace(model, example_inputs)


def ensure_structure(state: TaskResult) -> TaskResult:
    """The record with the structure of its model, traced now unless an earlier round did.

    The task remembers it too, so that a round which starts from the origin again finds it although the round in
    between compacted. Of a compact model that was read from a file the surgery is repeated on the trace of the
    original, since a fresh trace would not know how many units there were.
    """
    if state.structure is not None:
        return state
    task, origin = state.task, state.task.origin_structure
    if state.lineage.is_identity:
        structure = origin = traced(state.model, task.example_inputs)
    else:
        origin = traced(state.origin, task.example_inputs) if origin is None else origin
        structure = _repeated(state, origin)
    if task.lineage == state.lineage:
        task = attrs.evolve(task, structure=structure)
    return state.replace(task=attrs.evolve(task, origin_structure=origin), structure=structure)


def _repeated(state: TaskResult, structure: object) -> object:
    """The structure of a compact model, from that of the original."""
    if not isinstance(structure, Structure):
        raise StageError(f"structure: expected a fprune.structure.Structure, found {type(structure).__name__}")
    style, replaced, _ = generated(state.origin.skeleton, state.model.skeleton)
    tensors = {**state.model.params, **state.model.buffers}
    return repeated(state.origin, structure, state.lineage, tensors, style, replaced).structure


def pruned(call: Call, state: TaskResult, seed: int) -> TaskResult:
    """Run a pruner on a record.

    What is gone stays gone, unless the pruner declares that it regrows: then its masks take the place of the inherited
    ones. What it trained takes the place of the model, before the masks are applied.

    Raises:
        StageError: it did not return masks, or masked all of a weight.
        ModelError: a mask names no parameter, or does not fit it; a trained model has other names or shapes.
    """
    if "structure" in call.needs:
        state = ensure_structure(state)
    scope = Scope.from_result(state, seed=seed)
    masks, model, metrics = _joined(call, scope, state)
    _refuse_emptied(call, masks, model)
    changed = masks.apply({name: model[name] for name in masks})
    plan = scope.plan(state.goal.config)
    told = call.foresees(state.structure, plan) if "structure" in call.needs else {}
    notes = tuple(f"{name}: {why}" for name, why in told.items())
    return state.replace(
        model=model.replace(params=changed), masks=masks, metrics=metrics, notes=(*state.notes, *notes)
    )


def _joined(call: Call, scope: Scope, state: TaskResult) -> tuple[Masks, Model, Flat[float]]:
    """The masks, the model and the metrics a record has with what a pruner found; its own masks end here."""
    found = _checked(call, call(scope, state.goal.config), state.model)
    masks = _masks_of(found) if call.factory.regrows else state.masks & _masks_of(found)
    if not isinstance(found, Trained):
        return masks, state.model, state.metrics
    model = state.model.replace(found.model.params, found.model.buffers)
    return masks, model, state.metrics.merged(numbers(found.metrics, call))


def pure_masks(
    call: Call,
    params: Mapping[str, Tensor],
    config: Config,
    *,
    example_inputs: object,
    structure: object,
    masks: Masks | None,
    seed: int,
) -> Masks:
    """The masks of a pruner for any mapping of tensors, outside a run."""
    given = Inputs.of(example_inputs)
    if structure is None and "structure" in call.needs:
        if not isinstance(params, Model):
            raise CompositionError(
                f"{call!r} needs the structure of a model, found a plain mapping",
                hint="pass Model.from_module(net) and example_inputs=(x,)",
            )
        structure = traced(params, given)
    scope = Scope.of(params, masks=masks, structure=structure, seed=seed, example_inputs=given)
    with isolated(seed):
        return _masks_of(_checked(call, call(scope, config), params))


def _masks_of(found: Masks | Trained) -> Masks:
    """The masks in what a pruner returned."""
    return found.masks if isinstance(found, Trained) else found


def _checked(call: Call, found: Any, params: Mapping[str, Tensor]) -> Masks | Trained:
    masks = found.masks if isinstance(found, Trained) else found
    if not isinstance(masks, Masks):
        raise StageError(
            f"{call!r} returned {type(found).__name__}, expected Masks",
            hint="return Masks({name: bool tensor, ...}), or Trained(masks, model) when it trains",
        )
    masks.check(params)
    return found


def _refuse_emptied(call: Call, masks: Masks, params: Mapping[str, Tensor]) -> None:
    counts: Flat[tuple[int, int]] = masks.counts(params)
    for name, (removed, total) in counts.items():
        if removed == total and total and params[name].ndim > 1:
            raise StageError(
                f"{call!r} masks all {total} elements of '{name}'; at least one has to stay",
                hint="lower its sparsity, or exclude the layer",
            )
