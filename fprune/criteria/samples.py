"""Taking a batch apart into its samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import optree
from torch import Tensor

from fprune.errors import ScoreError
from fprune.tree import NAMESPACE

__all__ = ["Rebuild", "taken_apart"]

Rebuild: TypeAlias = Callable[[Sequence[Tensor]], Any]


def taken_apart(batch: Any, where: str) -> tuple[list[Tensor], Rebuild]:
    """Return the tensors of a batch that have one row for each sample, and what makes a batch of one sample.

    The first dimension of every tensor counts the samples. Numbers, texts and tensors without dimensions belong to
    every sample.

    Examples:
        >>> import torch
        >>> rows, rebuild = taken_apart({"x": torch.zeros(8, 3), "scale": 2.0}, "batch 0")
        >>> [tuple(tensor.shape) for tensor in rows]
        [(8, 3)]
        >>> rebuild([rows[0][5]])
        {'x': tensor([[0., 0., 0.]]), 'scale': 2.0}

    Args:
        batch: a tensor, or tensors in tuples, lists, mappings and records.
        where: its place in words, for messages.

    Returns:
        The tensors, and a function that takes one row of each and gives a batch of one sample.

    Raises:
        ScoreError: there is no such tensor, or they count differently.
    """
    leaves, spec = optree.tree_flatten(_plain(batch), namespace=NAMESPACE)
    split = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim > 0]
    rows = [cast(Tensor, leaves[place]) for place in split]
    sizes = [len(tensor) for tensor in rows]
    if not rows or len(set(sizes)) > 1 or sizes[0] == 0:
        found = "no tensor" if not rows else f"tensors of {', '.join(map(str, sizes))} rows"
        hint = "fisher looks at one sample at a time: the first dimension of every tensor counts the samples"
        raise ScoreError(f"{where}: the batch has {found}, expected one row for each sample in every tensor", hint=hint)

    def rebuild(sample: Sequence[Tensor]) -> Any:
        own = dict(zip(split, (row.unsqueeze(0) for row in sample), strict=True))
        return optree.tree_unflatten(spec, [own.get(place, leaf) for place, leaf in enumerate(leaves)])

    return rows, rebuild


def _plain(value: Any) -> Any:
    """Mappings of other classes as dicts, whose values can be seen: a tokenizer's output is one."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in cast("Sequence[Any]", value))
    return value
