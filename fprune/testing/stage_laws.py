"""What holds for every stage: it reads a record, makes another one, and leaves what is pruned pruned."""

import copy
from typing import Any

import torch

from fprune.records import TaskResult
from fprune.testing.law import Law, Piece
from fprune.testing.runs import Round, fields_that_differ, rounds
from fprune.testing.watch import changed, disturb, process
from fprune.tree import same


def _unchanged(piece: Piece, x: Round) -> str | None:
    given, kept, around = x.given, copy.deepcopy(x.given), process()
    x.after(given)
    if found := fields_that_differ(given, kept):
        return f"the {found[0]} of the record it was given has other values afterwards"
    if found := changed(around, process()):
        return f"{found[0]} changed"
    return None


def _deterministic(piece: Piece, x: Round) -> str | None:
    first = x.after()
    for _ in range(2):
        disturb()
        if found := fields_that_differ(first, x.after()):
            return f"given the same record and seed again, it gives another {found[0]}"
    return None


def _record(piece: Piece, x: Round) -> str | None:
    given, found = x.given, x.after()
    for name in ("index", "goal", "seed", "target", "origin", "model", "masks"):
        if not same(getattr(given.task, name), getattr(found.task, name)):
            return f"result.task.{name} is not what it was"
    if not same(given.history, found.history):
        return f"result.history has {len(found.history)} reports, expected the {len(given.history)} it had"
    return None


def _shapes(piece: Piece, x: Round) -> str | None:
    found = x.after()
    names = set(found.model.params)
    if names - set(found.origin.params):
        return f"there are parameters that the original has not: {sorted(names - set(found.origin.params))}"
    for name, value in found.model.items():
        expected = found.lineage.compact_shape(name)
        if tuple(value.shape) != tuple(expected):
            return f"{name!r} has the shape {tuple(value.shape)}, and the lineage says {tuple(expected)}"
        if value.dtype != found.origin[name].dtype:
            return f"{name!r} is {value.dtype}, expected {found.origin[name].dtype}"
    found.masks.check(found.model)
    return None


def _shrink(piece: Piece, x: Round) -> str | None:
    return shrunk(x.given, x.after())


def shrunk(before: TaskResult, after: TaskResult) -> str | None:
    """Which parameter has something back that was gone; None when none has."""
    earlier, later = (result.lineage.expand_masks(result.masks) for result in (before, after))
    for name in earlier:
        if not later.select([name]).shrinks(earlier.select([name])):
            return f"of {name!r} something is kept that was removed before"
    return None


def _pruned(piece: Piece, x: Round) -> str | None:
    return unpruned(x.after())


def unpruned(result: TaskResult) -> str | None:
    """Which parameter has a weight under a false mask that is not zero; None when none has."""
    for name, value in result.masks.apply(result.model).items():
        if not same(value, result.model[name]):
            count = int((value != result.model[name]).sum())
            return f"{count} weights of {name!r} are not zero where the mask says that they are gone"
    return None


def _finite(piece: Piece, x: Round) -> str | None:
    for name, value in x.after().model.items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"{name!r} has {int((~value.isfinite()).sum())} non-finite values"
    return None


def _outputs(piece: Piece, x: Round) -> str | None:
    given = x.run.inputs
    if given is None:
        return "example inputs are not given: check_stage(..., example_inputs=(x,))"
    with torch.no_grad():
        before, after = (given.call(result.model.eval()) for result in (x.given, x.after()))
    if not torch.allclose(before, after, rtol=1e-5, atol=1e-5):
        return f"the outputs before and after differ by {(before - after).abs().max():.3g}"
    return None


def _kept(piece: Piece) -> bool:
    return not piece.regrows


def _law(name: str, says: str, check: Any, **options: Any) -> Law:
    return Law(name, "stage", says, rounds, check, **options)


LAWS: tuple[Law, ...] = (
    _law("finite", "every round that can be given has a result, with finite weights", _finite),
    _law("inputs unchanged", "the record it is given, and the process, are only read", _unchanged),
    _law("deterministic", "the same record and seed have the same result, whatever ran before", _deterministic),
    _law("record", "the task and the history of a round are handed on as they are", _record),
    _law("shapes", "names, shapes and dtypes stay, or the lineage says what was cut", _shapes),
    _law("masks only shrink", "what was gone is gone", _shrink, applies=_kept),
    _law("pruned is zero", "weights under a false mask are exactly 0", _pruned),
    _law("same outputs", "the model computes what it did before", _outputs, asked=True),
)
"""In the order in which they are tried."""
