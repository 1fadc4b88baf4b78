"""Scores drawn at random, the baseline that every other criterion has to beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.original import original_shape, taken
from fprune.layers import Layer
from fprune.scope import Scope
from fprune.tree import generator

__all__ = ["uniform"]


@criterion(grain="any", reads="scope")
def uniform(scope: Scope, layers: Sequence[Layer], grain: Grain) -> dict[str, Tensor]:
    """Score at random: independent numbers from [0, 1).

    Each layer has its own generator, seeded from the seed and the weight's name, so a draw depends neither on the
    other layers nor on their order. Numbers are drawn on the CPU for the original shape: they are the same on every
    device, and what is left of a compacted model keeps its numbers.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.zeros(4, 2)}
        >>> scores = uniform()(params, layers_of(params), grain="channel")["w"]
        >>> torch.equal(scores, uniform()(params, layers_of(params), grain="channel")["w"])
        True

    Args:
        scope: brings the seed; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements or channels; filled in by the allocation.

    Returns:
        Weight name -> scores.
    """

    def draw(layer: Layer) -> Tensor:
        numbers = torch.rand(
            original_shape(scope, layer, grain),
            generator=generator(scope.seed, layer.weight),
            dtype=torch.float32,
            device="cpu",
        )
        return taken(scope, layer, numbers, grain).to(scope[layer.weight].device)

    return {layer.weight: draw(layer) for layer in layers}
