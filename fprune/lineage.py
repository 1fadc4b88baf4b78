"""Lineage: how the dimensions of a compact model map back to the original one's."""

from collections.abc import Mapping
from typing import final

import attrs
import torch
from torch import Tensor

from fprune import tree
from fprune.errors import ModelError
from fprune.masks import Masks
from fprune.model import Model
from fprune.tree import Flat

Kept = tuple[Tensor | None, ...]


def _no_kept() -> Flat[Kept]:
    return Flat()


@final
@attrs.frozen(eq=False, repr=False)
class Lineage:
    """Where every tensor of a compact model comes from, in the coordinates of the original model.

    Examples:
        >>> lineage = Lineage(Flat({"w": (3, 2)}), Flat({"w": (torch.tensor([0, 2]), None)}))
        >>> compact = lineage.slice({"w": torch.tensor([[1, 2], [3, 4], [5, 6]])})
        >>> compact["w"].tolist()
        [[1, 2], [5, 6]]
        >>> lineage.expand(compact)["w"].tolist()
        [[1, 2], [0, 0], [5, 6]]

    Args:
        shapes: Original shapes of parameters and buffers.
        kept: For each tensor that changed, for each dimension: the kept original indices (int64), or None for all.
        masks: The masks, in original coordinates, that compactions consumed.
        buffers: Names in `shapes` that are buffers; those never have a mask.
        folded: Parameters that compaction added, or whose values it changed by folding constants into them.
    """

    shapes: Flat[tuple[int, ...]]
    kept: Flat[Kept] = attrs.field(factory=_no_kept)
    masks: Masks = attrs.field(factory=Masks)
    buffers: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()

    @staticmethod
    def identity(model: Model) -> "Lineage":
        """The lineage of a model that was never compacted."""
        return Lineage(
            model.params.merged(model.buffers).map(lambda tensor: tuple(tensor.shape)),
            buffers=frozenset(model.buffers),
        )

    @property
    def is_identity(self) -> bool:
        """Whether nothing was ever removed, consumed or folded."""
        return not (self.kept or self.masks or self.folded)

    def slice(self, tree: Mapping[str, Tensor]) -> Flat[Tensor]:
        """Take dense tensors to the compact shapes; names that never changed pass through.

        Args:
            tree: Name -> tensor of the original shape.

        Returns:
            The same names.

        Raises:
            ModelError: A tensor does not have its original shape.
        """
        return Flat({name: self._sliced(name, value) if name in self.kept else value for name, value in tree.items()})

    def expand(self, tree: Mapping[str, Tensor], fill: float = 0) -> Flat[Tensor]:
        """Take compact tensors back to the original shapes; names that never changed pass through.

        Args:
            tree: Name -> tensor of the compact shape.
            fill: What stands where elements were removed; False for bool tensors.

        Returns:
            The same names.

        Raises:
            ModelError: A tensor does not have its compact shape.
        """
        return Flat(
            {name: self._expanded(name, value, fill) if name in self.kept else value for name, value in tree.items()}
        )

    def expand_masks(self, masks: Masks) -> Masks:
        """Take masks of the compact model to the original one, where everything that is gone is False.

        Examples:
            >>> lineage = Lineage(Flat({"w": (3, 2)}), Flat({"w": (torch.tensor([0, 2]), None)}))
            >>> lineage.expand_masks(Masks({"w": torch.tensor([[True], [False]])}))["w"].tolist()
            [[True], [False], [False]]
            >>> lineage.expand_masks(Masks())["w"].tolist()
            [[True], [False], [True]]

        Args:
            masks: Masks of the compact model; names that the original does not have are left out.

        Returns:
            `expanded masks & consumed masks & indices still present`.
        """
        current = Masks({name: self._expanded_mask(name, mask) for name, mask in masks.items() if name in self.shapes})
        present = {name: self._present(name, kept) for name, kept in self.kept.items() if name not in self.buffers}
        known = current & self.masks
        return known & Masks(
            {name: there.to(known[name].device) if name in known else there for name, there in present.items()}
        )

    def slice_masks(self, masks: Masks) -> Masks:
        """Take masks of the original model to the compact one."""
        return Masks(
            {name: self._sliced_mask(name, mask) if name in self.kept else mask for name, mask in masks.items()}
        )

    def then(self, later: "Lineage") -> "Lineage":
        """Compose with a compaction of the compact model.

        Args:
            later: Relative to the model that this lineage leads to.

        Returns:
            One lineage from the original to the last model.
        """
        kept = {name: self._composed(name, later) for name in {*self.kept, *later.kept} if name in self.shapes}
        return Lineage(
            self.shapes,
            Flat({name: dims for name, dims in kept.items() if any(dim is not None for dim in dims)}),
            self.masks
            & Masks(
                {name: self._expanded_mask(name, later.masks[name]) for name in later.masks if name in self.shapes}
            ),
            self.buffers,
            self.folded | later.folded,
        )

    def compact_shape(self, name: str) -> tuple[int, ...]:
        """The shape a tensor of the original has in the compact model."""
        dims = self.kept[name] if name in self.kept else (None,) * len(self.shapes[name])
        return tuple(
            size if index is None else index.numel() for size, index in zip(self.shapes[name], dims, strict=True)
        )

    def _composed(self, name: str, later: "Lineage") -> Kept:
        nothing = (None,) * len(self.shapes[name])
        first, second = self.kept.get(name, nothing), later.kept.get(name, nothing)
        return tuple(
            inner if outer is None else outer if inner is None else outer[inner.to(outer.device)]
            for outer, inner in zip(first, second, strict=True)
        )

    def _sliced(self, name: str, value: Tensor) -> Tensor:
        _check(name, tuple(value.shape), self.shapes[name], "original")
        for dim, index in _changed(self.kept[name]):
            value = value.index_select(dim, index.to(value.device))
        return value

    def _expanded(self, name: str, value: Tensor, fill: float) -> Tensor:
        _check(name, tuple(value.shape), self.compact_shape(name), "compact")
        for dim, index in _changed(self.kept[name]):
            value = _spread(value, dim, index, self.shapes[name][dim], fill)
        return value

    def _sliced_mask(self, name: str, mask: Tensor) -> Tensor:
        mask = _full_rank(mask, len(self.shapes[name]))
        for dim, index in _changed(self.kept[name]):
            if mask.shape[dim] > 1:
                mask = mask.index_select(dim, index.to(mask.device))
        return mask

    def _expanded_mask(self, name: str, mask: Tensor) -> Tensor:
        if name not in self.kept:
            return mask
        mask = _full_rank(mask, len(self.shapes[name]))
        for dim, index in _changed(self.kept[name]):
            # a size of 1 is broadcast; the indices that are gone are cut out by `expand_masks`
            if mask.shape[dim] > 1:
                mask = _spread(mask, dim, index, self.shapes[name][dim], fill=False)
        return mask

    def _present(self, name: str, kept: Kept) -> Tensor:
        """A bool tensor, broadcastable to the original, that is False at the indices that are gone."""
        shape = self.shapes[name]
        device = next(index.device for index in kept if index is not None)
        result = torch.ones((1,) * len(shape), dtype=torch.bool, device=device)
        for dim, index in _changed(kept):
            there = torch.zeros(shape[dim], dtype=torch.bool, device=device)
            there[index.to(device)] = True
            result = result & there.reshape([-1 if axis == dim else 1 for axis in range(len(shape))])
        return result

    def __eq__(self, other: object) -> bool:
        return tree.same(self, other) if isinstance(other, Lineage) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # holds tensors

    def __repr__(self) -> str:
        if self.is_identity:
            return f"Lineage({len(self.shapes)} tensors, unchanged)"
        before = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        after = sum(torch.Size(self.compact_shape(name)).numel() for name in self.shapes)
        changed = f"{len(self.kept)} of {len(self.shapes)} tensors changed"
        return f"Lineage({changed}, {before - after:,} of {before:,} elements gone)"


def _changed(kept: Kept) -> list[tuple[int, Tensor]]:
    return [(dim, index) for dim, index in enumerate(kept) if index is not None]


def _spread(value: Tensor, dim: int, index: Tensor, size: int, fill: float) -> Tensor:
    shape = list(value.shape)
    shape[dim] = size
    result = value.new_full(shape, False if value.dtype == torch.bool else fill)
    return result.index_copy(dim, index.to(value.device), value)


def _full_rank(mask: Tensor, rank: int) -> Tensor:
    return mask.reshape((1,) * (rank - mask.ndim) + tuple(mask.shape))


def _check(name: str, found: tuple[int, ...], expected: tuple[int, ...], kind: str) -> None:
    if found != expected:
        raise ModelError(f"{name!r}: expected the {kind} shape {expected}, got {found}")
