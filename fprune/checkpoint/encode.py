"""A result as a record of plain values and named tensors; nothing in it is code."""

from math import isfinite
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from fprune.checkpoint.form import described
from fprune.checkpoint.masks import packed_masks
from fprune.checkpoint.reports import config_record, goal_record, reports_record
from fprune.checkpoint.trees import packed
from fprune.equality import named_modules, settings
from fprune.lineage import Lineage

if TYPE_CHECKING:  # a result can save itself, so its file comes after this one
    from fprune.model import Model
    from fprune.records import TaskResult

__all__ = ["encoded", "origin_tensors", "template"]

_SHORT = 16
"""Longer lists are data, not settings."""


def encoded(result: "TaskResult") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a round's result is, beyond the network the run began with.

    Examples:
        >>> import torch
        >>> from fprune.records import TaskResult
        >>> record, tensors = encoded(TaskResult.start(torch.nn.Linear(2, 1), 0.5))
        >>> record["round"], record["target"], sorted(tensors)
        (-1, [{'sparsity': 0.5}], ['params/bias', 'params/weight'])

    Args:
        result: the result of a round.

    Returns:
        A record that JSON can hold, and tensors by name: `params/`, `buffers/`, `masks/` and `consumed/` (bits),
        `kept/<name>/<dim>` (indices) and `carried/`.
    """
    model, lineage = result.model, result.lineage
    masks, mask_bits = packed_masks(result.masks, "masks")
    consumed, consumed_bits = packed_masks(lineage.masks, "consumed")
    carried, carried_tensors = packed(result.carried, "carried")
    kept = {name: [index is not None for index in dims] for name, dims in lineage.kept.items()}
    record = {
        "round": result.index,
        "goal": goal_record(result.goal),
        "target": config_record(result.task.target),
        "seed": result.task.seed,
        "score": result.score,
        "metrics": dict(result.metrics),
        "notes": list(result.notes),
        "report": reports_record([result.report] if result.index >= 0 else []),
        "history": reports_record(result.history),
        "training": model.training,
        "form": described(result.origin.skeleton, model.skeleton),
        "masks": masks,
        "lineage": {"kept": kept, "consumed": consumed, "folded": sorted(lineage.folded)},
        "carried": carried,
    }
    tensors = {
        **_prefixed("params", model.params),
        **_prefixed("buffers", model.buffers),
        **mask_bits,
        **consumed_bits,
        **{
            f"kept/{name}/{dim}": index
            for name, dims in lineage.kept.items()
            for dim, index in enumerate(dims)
            if index is not None
        },
        **carried_tensors,
    }
    return record, tensors


def origin_tensors(result: "TaskResult") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The network a run began with, and what was masked then: the shapes of the masks, and tensors by name."""
    origin = result.task.origin
    masks, bits = packed_masks(result.task.origin_masks, "masks")
    return {"masks": masks}, {**_prefixed("params", origin.params), **_prefixed("buffers", origin.buffers), **bits}


def template(model: "Model") -> dict[str, Any]:
    """What a network has to be for a stored run to fit it: its modules, its tensors' kinds and its ties, no values.

    Examples:
        >>> import torch
        >>> from fprune.model import Model
        >>> template(Model.from_module(torch.nn.Linear(2, 1)))["tensors"]["weight"]
        ['float32', 1, 2]
    """
    tensors = {**model.params, **model.buffers}
    return {
        "modules": {name: _traits(module) for name, module in named_modules(model.skeleton)},
        "tensors": {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in tensors.items()},
        "buffers": sorted(Lineage.identity(model).buffers),
        "ties": dict(model.ties),
    }


def _traits(module: nn.Module) -> dict[str, Any]:
    """A module's class, and those of its attributes that are numbers, texts or short lists of them."""
    plain = {
        name: list(cast("tuple[object, ...]", value)) if isinstance(value, tuple | list) else value
        for name, value in settings(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }
    return {"class": type(module).__qualname__, **plain}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        items = cast("tuple[object, ...]", value)
        return len(items) <= _SHORT and all(map(_is_plain, items))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and isfinite(value))


def _prefixed(prefix: str, tensors: Any) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}
