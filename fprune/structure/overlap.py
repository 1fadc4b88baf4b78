"""Tensors that share memory: which entries of one are entries of the other."""

from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np
from torch import Tensor

from fprune.structure.labels import Bools, Ints

Kept: TypeAlias = tuple[Bools, ...]


@attrs.frozen
class Layout:
    """Where the entries of a tensor are in its memory."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def last(self) -> int:
        """The highest place it takes."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.sizes, self.strides, strict=True))

    def places(self) -> Ints:
        """The place of every entry, in the shape of the tensor."""
        out = np.full(self.sizes, self.offset, np.int64)
        for d, (n, step) in enumerate(zip(self.sizes, self.strides, strict=True)):
            out += (np.arange(n) * step).reshape([-1 if e == d else 1 for e in range(len(self.sizes))])
        return out


def overlap(value: Tensor, written: Tensor) -> "Overlap | None":
    """How two tensors over the same memory meet, on whatever device; None when their entries differ in size."""
    if value.element_size() != written.element_size():
        return None
    return Overlap(_layout(value), _layout(written))


def _layout(tensor: Tensor) -> Layout:
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


@attrs.frozen(eq=False)
class Overlap:
    """Which entries of a tensor are entries of another one in the same memory.

    Args:
        value: the tensor that is read.
        written: the tensor that was changed.
        cuts: what surgery kept of the two since, per dimension, oldest first.
    """

    value: Layout
    written: Layout
    cuts: tuple[tuple[Kept, Kept], ...] = ()

    @property
    def apart(self) -> bool:
        """Whether the two lie in different parts of the memory."""
        if 0 in (*self.value.sizes, *self.written.sizes):
            return True
        return self.value.last < self.written.offset or self.written.last < self.value.offset

    def index(self) -> Ints:
        """For each entry of the value, the flat index of the same entry of the written tensor, else -1."""
        at, places = self.value.places(), self.written.places()
        low = min(self.value.offset, self.written.offset)
        memory = np.full(max(self.value.last, self.written.last) - low + 1, -1, np.int64)
        memory[places.reshape(-1) - low] = np.arange(places.size)
        index = memory[at - low]
        for value, written in self.cuts:
            stays = _grid(written).reshape(-1)
            rank = np.where(stays, np.cumsum(stays) - 1, -1)
            index = index[np.ix_(*map(np.flatnonzero, value))]
            index = np.where(index < 0, -1, rank[index])
        return index

    def cut(self, value: Kept, written: Kept) -> "Overlap":
        """The same after surgery on both."""
        return attrs.evolve(self, cuts=(*self.cuts, (value, written)))


def _grid(kept: Sequence[Bools]) -> Bools:
    out: Bools = np.ones((), np.bool_)
    for line in kept:
        out = out[..., None] & line
    return out
