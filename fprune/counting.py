"""How much is gone: channels and elements, counted on compact masks in the original model's coordinates."""

from collections.abc import Iterable, Mapping
from math import prod

import attrs
import torch
from torch import Tensor

from fprune.layers import Layer
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.tree import Flat

__all__ = ["Realised", "alive_units", "realised"]


@attrs.frozen
class Realised:
    """How many of how many are removed.

    Examples:
        >>> Realised(3, 12).fraction
        0.25

    Args:
        removed: units or elements that are gone, by a mask or by compaction.
        total: units or elements of the original model.
    """

    removed: int
    total: int

    @property
    def fraction(self) -> float:
        """Removed over total, in `[0, 1]`; 0 when there was nothing."""
        return self.removed / self.total if self.total else 0.0


def alive_units(mask: Tensor, layer: Layer) -> Tensor:
    """Tell which output units keep at least one weight; the mask is never expanded.

    Examples:
        >>> from fprune.layers import layers_of
        >>> (layer,) = layers_of({"w": torch.ones(3, 4)})
        >>> alive_units(torch.tensor([[True], [False], [True]]), layer)
        tensor([ True, False,  True])

    Args:
        mask: bool, broadcastable to `layer.shape`.
        layer: the layer, in the coordinates of the mask.

    Returns:
        Bool, `(units,)`.
    """
    mask = mask.reshape((1,) * (len(layer.shape) - mask.ndim) + tuple(mask.shape))
    if mask.numel() == 0:
        return mask.new_zeros(layer.units)
    width = layer.shape[layer.axis]
    if layer.groups > 1 and mask.shape[0] > 1:
        # A grouped transposed convolution, (in, out / groups, ...): group g owns the g-th run of rows.
        rows = mask.reshape(layer.groups, -1, *mask.shape[1:]).movedim(layer.axis + 1, 1).flatten(2)
    else:
        rows = mask.movedim(layer.axis, 0).reshape(1, mask.shape[layer.axis], -1)
    # The greatest byte of a row is found many times faster than `any` of its bools.
    alive = rows.contiguous().view(torch.uint8).amax(-1).bool()
    return alive.expand(layer.groups, width).reshape(-1)


def realised(
    layers: Iterable[Layer], params: Mapping[str, Tensor], masks: Masks, lineage: Lineage
) -> tuple[Flat[Realised], Flat[Realised]]:
    """Count what masks and compactions removed from the original layers.

    An element is gone when a compaction dropped its index on any dimension, or when a mask, now or before
    a compaction, is false there. An output unit is gone when all its elements are.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.ones(4, 3)}
        >>> masks = Masks({"w": torch.tensor([[True], [False], [True], [True]])})
        >>> lineage = Lineage(shapes=Flat({"w": (4, 3)}), kept=Flat({}), masks=Masks({}))
        >>> realised(layers_of(params, None), params, masks, lineage)
        (Flat(w=Realised(removed=1, total=4)), Flat(w=Realised(removed=3, total=12)))

    Args:
        layers: layers of the *original* model.
        params: the present parameters; their shapes are read.
        masks: present masks, in present coordinates.
        lineage: where the present indices come from.

    Returns:
        Channels and elements by weight name.
    """
    channels: dict[str, Realised] = {}
    elements: dict[str, Realised] = {}
    for layer in layers:
        units, kept = _left(layer, params, masks, lineage)
        total = prod(layer.shape)
        channels[layer.weight] = Realised(layer.units - units, layer.units)
        elements[layer.weight] = Realised(total - kept, total)
    return Flat(channels), Flat(elements)


def _left(layer: Layer, params: Mapping[str, Tensor], masks: Masks, lineage: Lineage) -> tuple[int, int]:
    """Return how many units and elements of an original layer are left."""
    name = layer.weight
    if name not in params:
        return 0, 0
    shape = tuple(params[name].shape)
    groups = _groups(layer, params)
    now = attrs.evolve(layer, shape=shape, groups=groups, units=shape[layer.axis] * (groups if layer.axis else 1))
    mask, earlier = masks.get(name), _earlier(name, lineage)
    if mask is None or earlier is None:
        mask = earlier if mask is None else mask
    else:
        mask = mask & earlier.to(mask.device)
    if mask is None:
        return now.units, prod(shape)
    repeats = prod(shape) // max(mask.numel(), 1)
    return int(alive_units(mask, now).sum()), int(mask.count_nonzero()) * repeats


def _groups(layer: Layer, params: Mapping[str, Tensor]) -> int:
    """Return the present number of groups; compaction may have removed whole groups."""
    if layer.groups == 1 or not isinstance(params, Model):
        return layer.groups
    return next((now.groups for now in params.layers if now.weight == layer.weight), layer.groups)


def _earlier(name: str, lineage: Lineage) -> Tensor | None:
    """Return the mask that compactions consumed, at the present indices; size-1 dimensions stay."""
    if name not in lineage.masks:
        return None
    return lineage.slice_masks(Masks({name: lineage.masks[name]}))[name]
