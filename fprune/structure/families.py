"""Families: labels that own the same slices of the same tensors, differing only in the index."""

from collections.abc import Mapping
from typing import TypeAlias

import attrs
import numpy as np

from fprune.structure.labels import Bools, Ints
from fprune.structure.roles import Role

Key: TypeAlias = tuple[int, bytes]
"""The label rows of a dimension, by value."""
Owned: TypeAlias = tuple[str, int, Ints, Ints]
"""A tensor, a dimension, labels that occur in it (sorted, repeated) and the index of each occurrence."""


@attrs.frozen(eq=False)
class Slice:
    """The part of one tensor dimension that belongs to a family.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Linear(3, 1))
        >>> (family,) = trace(Model.from_module(net), inputs(torch.ones(1, 1))).families
        >>> [(part.tensor, part.dim, part.index.tolist()) for part in family.slices]
        [('0.bias', 0, [[0], [1], [2]]), ('0.weight', 0, [[0], [1], [2]]), ('1.weight', 1, [[0], [1], [2]])]

    Args:
        tensor: name of the parameter or buffer.
        dim: the dimension.
        index: indices along it, shape `(units, width)`: row u belongs to unit u.
    """

    tensor: str
    dim: int
    index: Ints


@attrs.frozen(eq=False)
class Family:
    """Units of one kind: the same slices of the same tensors, differing only in the index. One prunable axis.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> (family,) = trace(Model.from_module(net), inputs(torch.ones(1, 4))).families
        >>> family.name, len(family), family.parameters
        ('0.weight', 8, ('0.bias', '0.weight', '2.weight'))

    Args:
        name: the tensor dimension that makes it, `"layer1.0.conv1.weight"`.
        labels: the label of each unit.
        slices: everything that goes when a unit goes.
        original: how many units there were before any compaction.
        role: what the units are: `"head"`s of an attention, `"head_dim"`, one place in every head, or `"channel"`s.
    """

    name: str
    labels: Ints
    slices: tuple[Slice, ...]
    original: int
    role: Role = "channel"

    def __len__(self) -> int:
        """How many units there are."""
        return len(self.labels)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tensors it reaches, each once."""
        return tuple(dict.fromkeys(s.tensor for s in self.slices))

    def __repr__(self) -> str:
        """One line."""
        return f"Family({self.name}, {len(self)} units, {len(self.slices)} slices)"


def families(tensors: Mapping[str, tuple[Ints, ...]], allowed: Bools) -> tuple[Family, ...]:
    """Group labels by the slices they own: `allowed[label]` says which may be removed."""
    signature = np.zeros(len(allowed), np.uint64)
    owned: list[tuple[str, int, Key]] = []
    sorts: dict[Key, tuple[Ints, Ints]] = {}  # the tensors of a layer have the same rows: each is sorted once
    for name, dims in tensors.items():
        for dim, row in enumerate(dims):
            key = row.shape[1], row.tobytes()
            labels, _ = sorts[key] if key in sorts else sorts.setdefault(key, _sorted(row, allowed))
            if not len(labels):
                continue
            starts = _starts(labels)
            unique, counts = labels[starts], np.diff(starts, append=len(labels))
            with np.errstate(over="ignore"):  # a polynomial hash modulo 2**64
                entry = np.uint64(len(owned) + 1) * np.uint64(1_000_003) + counts.astype(np.uint64)
                signature[unique] = signature[unique] * np.uint64(6364136223846793005) + entry
            owned.append((name, dim, key))
    used = np.nonzero(signature)[0]
    kind_of = np.full(len(allowed), -1, np.int64)
    kind_of[used] = np.unique(signature[used], return_inverse=True)[1]
    kinds: dict[int, list[Owned]] = {}
    parts: dict[Key, list[tuple[int, Ints, Ints]]] = {}
    for name, dim, key in owned:
        if key not in parts:
            parts[key] = _by_kind(*sorts[key], kind_of)
        for kind, labels, at in parts[key]:
            kinds.setdefault(kind, []).append((name, dim, labels, at))
    found = (_family(apart, parts, tensors) for parts in kinds.values() for apart in _uncrossed(parts))
    return _named_apart(sorted(found, key=lambda family: int(family.labels[0])))


def _sorted(row: Ints, allowed: Bools) -> tuple[Ints, Ints]:
    """The removable labels of a dimension, sorted, and the index of each."""
    at, column = np.nonzero(allowed[row])
    labels = row[at, column]
    order = np.argsort(labels, kind="stable")
    return labels[order], at[order]


def _starts(values: Ints) -> Ints:
    """Where each run of equal values starts."""
    return np.flatnonzero(np.diff(values, prepend=values[0] - 1))


def _by_kind(labels: Ints, at: Ints, kind_of: Ints) -> list[tuple[int, Ints, Ints]]:
    """Labels and their indices, a part for each kind of label."""
    kind = kind_of[labels]
    order = np.argsort(kind, kind="stable")
    parts = np.split(order, _starts(kind[order])[1:])
    return [(int(kind[part[0]]), labels[part], at[part]) for part in parts]


def _named_apart(found: list[Family]) -> tuple[Family, ...]:
    """A number after the name of each family but the first that a tensor dimension makes: heads, then their width."""
    seen: dict[str, int] = {}
    out: list[Family] = []
    for family in found:
        number = seen[family.name] = seen.get(family.name, 0) + 1
        out.append(family if number == 1 else attrs.evolve(family, name=f"{family.name}#{number}"))
    return tuple(out)


def _family(labels: Ints, parts: list[Owned], tensors: Mapping[str, tuple[Ints, ...]]) -> Family:
    """The family of some labels, each of which owns the same number of entries of each part."""
    slices: list[Slice] = []
    for name, dim, every, at in parts:
        mine = np.isin(every, labels) if len(labels) < len(_starts(every)) else slice(None)
        slices.append(Slice(name, dim, at[mine].reshape(len(labels), -1)))
    return Family(_name(slices, tensors), labels, tuple(slices), len(labels))


def _uncrossed(parts: list[Owned]) -> list[Ints]:
    """Labels apart that meet in one index: the two axes of a square grid look alike but are two families."""
    meets: dict[int, set[int]] = {}
    for _, _, every, at in parts:
        if np.bincount(at).max() == 1:
            continue
        by_index: dict[int, list[int]] = {}
        for label, index in zip(every.tolist(), at.tolist(), strict=True):
            by_index.setdefault(index, []).append(label)
        for group in by_index.values():
            for label in group:
                meets.setdefault(label, set()).update(group)
    labels = parts[0][2][_starts(parts[0][2])]
    if not meets:
        return [labels]
    apart: list[list[int]] = []
    for label in labels.tolist():
        home = next((group for group in apart if meets.get(label, set()).isdisjoint(group)), None)
        if home is None:
            apart.append([label])
        else:
            home.append(label)
    return [np.array(group, np.int64) for group in apart]


def _name(slices: list[Slice], tensors: Mapping[str, tuple[Ints, ...]]) -> str:
    """A family is named after the first weight whose outputs it is, else after its first slice."""
    made = [s.tensor for s in slices if s.dim == 0 and len(tensors[s.tensor]) > 1]
    return made[0] if made else f"{slices[0].tensor}[dim {slices[0].dim}]"
