"""A result from its record and tensors, and from the network the run began with."""

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor, nn

from fprune.checkpoint.entry import Entry
from fprune.checkpoint.masks import unpacked_masks
from fprune.checkpoint.reports import config_of, goal_of, reports_of
from fprune.checkpoint.trees import unpacked
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Task, TaskResult
from fprune.tree import Flat

__all__ = ["Rebuild", "decoded", "decoded_origin"]

Rebuild = Callable[[Model, Entry, Mapping[str, Tensor], Lineage, Inputs | None], nn.Module]
"""Makes the skeleton of a model: from the origin, the form on file, tensors by name, lineage and example inputs."""


def decoded_origin(masks: Entry, tensors: Mapping[str, Tensor], template: Model) -> tuple[Model, Masks]:
    """The network a run began with, in the code of a template, and what was masked then.

    Args:
        masks: shapes of the masks.
        tensors: what the file of tensors holds.
        template: a network of the same class and shapes; its values do not matter.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    found = {name: _of("params", name, old, tensors, masks) for name, old in template.params.items()}
    buffers = {name: _of("buffers", name, old, tensors, masks) for name, old in template.buffers.items()}
    devices = {name: value.device for name, value in template.params.items()}
    initial = masks.made(_checked_masks, unpacked_masks(masks, tensors, "masks", devices), template)
    return Model(template.skeleton, Flat(found), Flat(buffers), template.training), initial


def decoded(
    entry: Entry,
    tensors: Mapping[str, Tensor],
    origin: Model,
    origin_masks: Masks,
    example_inputs: Inputs | None,
    rebuild: Rebuild,
) -> TaskResult:
    """A result as it was when it was encoded, but for traces, which are derived anew when they are needed.

    Args:
        entry: the record.
        tensors: what the file of tensors holds.
        origin: the network the run began with.
        origin_masks: what was masked then.
        example_inputs: arguments of a forward pass, which no file keeps.
        rebuild: makes the skeleton.

    Raises:
        CheckpointError: something does not fit.
    """
    target = config_of(entry["target"])
    goal = goal_of(entry["goal"])
    devices = {name: value.device for name, value in {**origin.params, **origin.buffers}.items()}
    lineage = _lineage(entry["lineage"], tensors, origin, devices)
    named = {
        prefix: {
            name.removeprefix(prefix): value.to(devices.get(name.removeprefix(prefix), origin.device))
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        for prefix in ("params/", "buffers/")
    }
    shapes = {**named["params/"], **named["buffers/"]}
    skeleton = rebuild(origin, entry["form"], shapes, lineage, example_inputs)
    model = Model(skeleton, Flat(named["params/"]), Flat(named["buffers/"]), entry["training"].flag())
    masks = entry["masks"].made(
        _checked_masks,
        unpacked_masks(entry["masks"], tensors, "masks", {name: value.device for name, value in model.items()}),
        model,
    )
    make = attrs.evolve
    start = entry.made(TaskResult.start, origin, target, seed=entry["seed"].integer(), example_inputs=example_inputs)
    task: Task = make(
        start.task,
        index=entry["round"].integer(-1),
        goal=goal,
        model=model,
        masks=masks,
        lineage=lineage,
        origin_masks=origin_masks,
    )
    return TaskResult(
        task,
        model,
        masks,
        score=entry.maybe("score", Entry.number),
        metrics=Flat(entry["metrics"].mapped(Entry.number)),
        history=reports_of(entry["history"]),
        notes=entry["notes"].each(Entry.text),
        carried=_carried(entry["carried"], tensors),
    )


def _carried(entry: Entry, tensors: Mapping[str, Tensor]) -> Flat[object]:
    found: object = unpacked(entry.value, tensors, entry.file)
    return entry.made(Flat[object], found) if isinstance(found, dict) else entry.refuse("expected a dict of trees")


def _of(kind: str, name: str, old: Tensor, tensors: Mapping[str, Tensor], entry: Entry) -> Tensor:
    value = tensors.get(f"{kind}/{name}")
    if value is None or value.shape != old.shape or value.dtype != old.dtype:
        entry.refuse(f"{name!r} of the network is not in the file of tensors, or of another shape")
    return value.to(old.device)


def _checked_masks(masks: Masks, model: Model) -> Masks:
    masks.check(model)
    return masks


def _lineage(
    entry: Entry, tensors: Mapping[str, Tensor], origin: Model, devices: Mapping[str, torch.device]
) -> Lineage:
    identity = Lineage.identity(origin)
    kept: dict[str, tuple[Tensor | None, ...]] = {}
    for name, dims in entry["kept"].items():
        flags = dims.each(Entry.flag)
        if name not in identity.shapes or len(flags) != len(identity.shapes[name]):
            dims.refuse("no tensor of the network has this name and so many dimensions")
        sizes = identity.shapes[name]
        indices = [
            _index(dims, tensors.get(f"kept/{name}/{dim}"), sizes[dim]) if there else None
            for dim, there in enumerate(flags)
        ]
        kept[name] = tuple(indices)
    consumed = unpacked_masks(entry["consumed"], tensors, "consumed", devices)
    return attrs.evolve(
        identity,
        kept=Flat(kept),
        masks=entry["consumed"].made(_checked_masks, consumed, origin),
        folded=frozenset(entry["folded"].each(Entry.text)),
    )


def _index(entry: Entry, index: Tensor | None, size: int) -> Tensor:
    if index is None or index.dtype != torch.int64 or index.ndim != 1 or not len(index):
        entry.refuse("the kept indices are not in the file of tensors")
    steps = index[1:] > index[:-1]
    if not (bool(steps.all()) and int(index[0]) >= 0 and int(index[-1]) < size):
        entry.refuse(f"the kept indices are not in order between 0 and {size - 1}")
    return index
