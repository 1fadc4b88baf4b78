"""Lineage: how the dimensions of a compact model map back to the original one's."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, final

import attrs
import torch
from torch import Tensor

from fprune import tree
from fprune.errors import ModelError
from fprune.masks import Masks
from fprune.model import Model
from fprune.shaped import cloned, mapped, renumbered
from fprune.tree import Flat

Kept = tuple[Tensor | None, ...]


def _no_kept() -> Flat[Kept]:
    return Flat()


def _no_ties() -> Flat[str]:
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
        ties: Each further name of a shared tensor -> the name it has in `shapes`.
    """

    shapes: Flat[tuple[int, ...]]
    kept: Flat[Kept] = attrs.field(factory=_no_kept)
    masks: Masks = attrs.field(factory=Masks)
    buffers: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()
    ties: Flat[str] = attrs.field(factory=_no_ties)

    @staticmethod
    def identity(model: Model) -> "Lineage":
        """The lineage of a model that was never compacted."""
        return Lineage(
            model.params.merged(model.buffers).map(lambda tensor: tuple(tensor.shape)),
            buffers=frozenset(model.buffers),
            ties=model.ties,
        )

    @property
    def is_identity(self) -> bool:
        """Whether nothing was ever removed, consumed or folded."""
        return not (self.kept or self.masks or self.folded)

    def slice(self, tree: Any, names: Iterable[str] | None = None) -> Any:
        """Apply the compaction's cut to any tree shaped like the parameters: gradients, averages, optimizer states.

        A tensor belongs to the parameter or buffer whose name is a key on the way to it, at any depth. Below a name,
        what has the parameter's shape is cut (Adam's `exp_avg`), what has size 1 along a dimension is cut along the
        others (Adafactor's rows and columns), and single numbers (`step`) pass; so does what has no name.

        Examples:
            >>> lineage = Lineage(Flat({"b": (3,), "w": (3, 2)}), Flat({"w": (torch.tensor([0, 2]), None)}))
            >>> average = {"decay": 0.9, "shadow": {"module.w": torch.ones(3, 2)}}
            >>> lineage.slice(average)["shadow"]["module.w"].shape
            torch.Size([2, 2])
            >>> gradients = [torch.ones(3, 2), torch.ones(3)]
            >>> [g.shape for g in lineage.slice(gradients, names=["w", "b"])]
            [torch.Size([2, 2]), torch.Size([3])]

        Args:
            tree: Nested dicts, lists, tuples or records, keyed by the names of the original's tensors.
            names: For a tree that goes by number, such as an optimizer's state: names in that order. A state whose
                optimizer was given `net.named_parameters()` knows them.

        Returns:
            A tree like it; a mapping that is neither a dict nor a `Flat`, such as a `Model`, becomes a `Flat`.

        Raises:
            ModelError: A tensor does not have its original shape, or goes by number without `names`.
        """
        return mapped(tree, self._sliced, self._names, names)

    def expand(self, tree: Any, fill: float = 0, names: Iterable[str] | None = None) -> Any:
        """Write a tree of the compact shapes back into the original ones, as `slice` finds its tensors.

        Args:
            tree: Like those of `slice`, with tensors of the compact shapes.
            fill: What stands where elements were removed; False for bool tensors.
            names: For a tree that goes by number: names in that order.

        Returns:
            A tree like it.

        Raises:
            ModelError: A tensor does not have its compact shape, or goes by number without `names`.
        """
        return mapped(tree, partial(self._expanded, fill=fill), self._names, names)

    def slice_optimizer(self, state: Mapping[str, Any], before: Iterable[str], after: Iterable[str]) -> dict[str, Any]:
        """Cut what `optimizer.state_dict()` gives, for an optimizer of the compact model to load.

        Unlike `slice` it renumbers: a graph has its parameters in another order, folding adds biases (they start
        without a state, in the last group), and parameters that the forward pass never used are gone.

        Examples:
            >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
            >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            >>> net(torch.ones(1, 2)).sum().backward()
            >>> optimizer.step()
            >>> names = [name for name, _ in net.named_parameters()]
            >>> kept = torch.tensor([0, 2])
            >>> cut = Flat({"0.weight": (kept, None), "0.bias": (kept,), "1.weight": (None, kept)})
            >>> lineage = Lineage(Flat({name: tuple(p.shape) for name, p in net.named_parameters()}), cut)
            >>> lineage.slice_optimizer(optimizer.state_dict(), names, names)["state"][2]["momentum_buffer"].shape
            torch.Size([1, 2])

        Args:
            state: State of an optimizer of the original model.
            before: Names of the parameters it was given, in order: `net.named_parameters()` for all of them.
            after: Names of the parameters that the optimizer of the compact model is given, in order.

        Returns:
            A state for `load_state_dict`.

        Raises:
            ModelError: A tensor of the state is neither one number nor of its parameter's original shape.
        """
        before, after = list(before), list(after)
        # torch loads tensors without copying them: two optimizers would update the same ones
        return renumbered(self.slice(cloned(dict(state)), names=before), before, after)

    @property
    def _names(self) -> dict[str, str]:
        return {**{name: name for name in self.shapes}, **self.ties}

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
            self.ties,
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

    def _sliced(self, name: str, value: Tensor, direct: bool) -> Tensor:
        if name not in self.kept or (not direct and value.numel() == 1):
            return value
        _check(name, tuple(value.shape), self.shapes[name], "original", direct)
        for dim, index in _changed(self.kept[name]):
            if value.shape[dim] == self.shapes[name][dim]:
                value = value.index_select(dim, index.to(value.device))
        return value

    def _expanded(self, name: str, value: Tensor, direct: bool, fill: float) -> Tensor:
        if name not in self.kept or (not direct and value.numel() == 1):
            return value
        shape = self.compact_shape(name)
        _check(name, tuple(value.shape), shape, "compact", direct)
        for dim, index in _changed(self.kept[name]):
            if value.shape[dim] == shape[dim]:
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


def _check(name: str, found: tuple[int, ...], expected: tuple[int, ...], kind: str, direct: bool) -> None:
    broadcast = len(found) == len(expected) and all(n in (1, m) for n, m in zip(found, expected, strict=True))
    if found != expected and (direct or not broadcast):
        raise ModelError(f"{name!r}: expected the {kind} shape {expected}, got {found}")
