"""Scores that are there already: learned in training, or read from a file."""

from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor

from fprune.criteria.criterion import Criterion, Grain, criterion
from fprune.layers import Layer
from fprune.scope import Scope

__all__ = ["given"]


@criterion(grain="element", reads="scope")
def _given(scope: Scope, layers: Sequence[Layer], grain: Grain, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return scores


def given(scores: Mapping[str, Tensor], grain: Grain) -> Criterion:
    """Score by numbers that were computed before.

    Examples:
        >>> import torch
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.ones(2, 3)}
        >>> learned = given({"w": torch.tensor([0.5, -1.0])}, grain="channel")
        >>> learned(params, layers_of(params))
        {'w': tensor([ 0.5000, -1.0000])}

    Args:
        scores: weight name -> finite scores, `(units,)` for channels, of the weight's shape for elements.
        grain: which of the two.

    Returns:
        A criterion for the layers that the scores name.
    """
    return attrs.evolve(_given(scores), grain=grain)
