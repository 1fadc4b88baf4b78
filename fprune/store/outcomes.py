"""Outcomes of stages on disk: what a stage changed of the record it was shown, each in a folder named by its key.

CACHE/<key>/outcome.json       what changed, and where each tensor of the outcome is found
CACHE/<key>/state.safetensors  the tensors that the stage made; those it was given are not kept again
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from fprune import tree
from fprune.checkpoint import disk
from fprune.checkpoint.commit import staged
from fprune.checkpoint.decode import decoded
from fprune.checkpoint.encode import encoded
from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.seal import LIMIT, sealed, unsealed
from fprune.checkpoint.tensors import parts
from fprune.equality import same
from fprune.errors import CheckpointError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Task, TaskResult
from fprune.store.digests import Digests
from fprune.store.form import rebuilt
from fprune.store.load import as_recorded, tensors_in
from fprune.tree import Flat

__all__ = ["keep", "kept"]

FORMAT = 1
OUTCOME, STATE = "outcome.json", "state.safetensors"

_RECORDS = 1 << 16


def keep(folder: Path, key: str, stage: str, given: TaskResult, outcome: TaskResult, digests: Digests) -> None:
    """Write what a stage made of what it was shown.

    Args:
        folder: the cache; it exists.
        key: of the stage and all that it read.
        stage: the stage as it is written, for readers of the file.
        given: what the stage was shown.
        outcome: what it made of that.
        digests: what is known of tensors.

    Raises:
        CheckpointError: it could not be written, or it is something that no file can hold.
    """
    _refuse_more(given, outcome)
    unchanged = [name for name in ("masks", "lineage", "carried") if getattr(outcome, name) is getattr(given, name)]
    unchanged += ["code"] if outcome.model.skeleton is given.model.skeleton else []
    record, tensors = encoded(_slim(outcome, unchanged))
    there = {name: where for name, value in tensors.items() if (where := _where(name, value, given, digests))}
    made = {name: value for name, value in tensors.items() if name not in there}
    with staged(folder, key, doing=f"what {stage} made", needed=tree.nbytes(made) + _RECORDS) as staging:
        written = disk.write_file(staging / STATE, parts(made, f"{key}/{STATE}"))
        said = {
            "format": FORMAT,
            "key": key,
            "stage": stage,
            "unchanged": unchanged,
            "given": there,
            "made": {name: digests.tensor(value) for name, value in made.items()},
            "state": {"bytes": written.bytes, "blake2b": written.blake2b},
            "outcome": record,
        }
        disk.write_file(staging / OUTCOME, [sealed(said, f"{key}/{OUTCOME}")])


def kept(folder: Path, key: str, given: TaskResult, digests: Digests) -> TaskResult | None:
    """What a stage made of a record with this key, if it is on disk.

    Args:
        folder: the cache.
        key: of the stage and all that it read.
        given: what the stage is shown.
        digests: what is known of tensors, to which those that are read are added.

    Raises:
        CheckpointError: it is there, and damaged.
    """
    if not (folder / key).exists():
        return None
    path = folder / key / OUTCOME
    entry = unsealed(disk.read_file(path, LIMIT), str(path))
    if entry["format"].integer() != FORMAT:
        raise damaged(str(path), f"format {entry['format'].integer()}, expected {FORMAT}")
    if entry["key"].text() != key:
        raise damaged(str(path), "it is of another key")
    made = _tensors(folder / key / STATE, entry["state"])
    for name, known in entry["made"].items():
        if name not in made:
            known.refuse("it is not in the file of tensors")
        digests.know(made[name], known.text())
    there = {name: _given(name, where, given) for name, where in entry["given"].items()}
    return _restored(entry, {**made, **there}, given)


def _restored(entry: Entry, tensors: Mapping[str, Tensor], given: TaskResult) -> TaskResult:
    unchanged = entry["unchanged"].each(lambda item: item.text("masks", "lineage", "carried", "code"))
    task = given.task

    def code(*form: Any) -> Any:
        return given.model.skeleton if "code" in unchanged else rebuilt(*form)

    found = decoded(entry["outcome"], tensors, given.origin, task.origin_masks, task.example_inputs, code)
    changed = {name: getattr(found, name) for name in ("masks", "lineage", "carried") if name not in unchanged}
    return given.replace(
        task=attrs.evolve(task, goal=attrs.evolve(given.goal, config=found.goal.config)),
        model=_or_same(given.model, found.model),
        score=found.score,
        metrics=found.metrics,
        notes=found.notes,
        structure=given.structure if "code" in unchanged else None,
        **changed,
    )


def _or_same(old: Model, new: Model) -> Model:
    """The old model where the new one has nothing that is not the old one's own."""
    pairs = [(old.params, new.params), (old.buffers, new.buffers)]
    equal = all(a.keys() == b.keys() and all(a[name] is b[name] for name in a) for a, b in pairs)
    return old if equal and old.skeleton is new.skeleton and old.training == new.training else new


def _slim(outcome: TaskResult, unchanged: list[str]) -> TaskResult:
    """The outcome without what need not be written: the history, and what the stage did not touch."""
    origin, model = outcome.origin, outcome.model
    plain: dict[str, Any] = {"masks": Masks(), "lineage": Lineage.identity(origin), "carried": Flat[Any]()}
    left_out = {name: value for name, value in plain.items() if name in unchanged}
    if "code" in unchanged:
        model = Model(origin.skeleton, model.params, model.buffers, model.training)
    return attrs.evolve(
        outcome, task=attrs.evolve(outcome.task, index=-1), history=(), model=model, intermediate=(), **left_out
    )


def _refuse_more(given: TaskResult, outcome: TaskResult) -> None:
    """Refuse an outcome that differs from what the stage was shown in more than a file tells."""
    fields = [field.name for field in attrs.fields(Task) if field.eq and field.name != "goal"]
    pairs = [(name, getattr(given.task, name), getattr(outcome.task, name)) for name in fields]
    pairs += [(name, getattr(given, name), getattr(outcome, name)) for name in ("origin", "history")]
    pairs += [("goal", given.goal, attrs.evolve(outcome.goal, config=given.goal.config))]
    changed = [name for name, one, two in pairs if not (one is two or same(one, two))]
    if changed:
        raise CheckpointError(
            f"it changed the {changed[0]} of the run, which an outcome on disk does not tell",
            hint='a stage that is run each time says so: @stage(reads="world")',
        )


def _where(name: str, value: Tensor, given: TaskResult, digests: Digests) -> str:
    """Whose tensor of the same name a tensor is, byte for byte: the given model's, the first one's, or nobody's."""
    kind, _, rest = name.partition("/")
    if kind not in ("params", "buffers"):
        return ""
    for where in ("model", "origin"):
        there = cast("Tensor | None", getattr(getattr(given, where), kind).get(rest))
        if there is value or (there is not None and digests.tensor(there) == digests.tensor(value)):
            return where
    return ""


def _given(name: str, where: Entry, given: TaskResult) -> Tensor:
    kind, _, rest = name.partition("/")
    model: Model = getattr(given, where.text("model", "origin"))
    tensors = {"params": model.params, "buffers": model.buffers}.get(kind, Flat[Tensor]())
    return tensors[rest] if rest in tensors else where.refuse("there is no tensor of this name")


def _tensors(path: Path, said: Entry) -> dict[str, Tensor]:
    """The tensors in a file whose digest is the one on record."""
    found = disk.digest_file(path)
    as_recorded(said, found.bytes, found.blake2b, path)
    with torch.inference_mode(False):  # what is read inside it can never be trained
        return tensors_in(path)
