"""Train a private copy of a model with the user's own function."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fprune.compose.call import expression
from fprune.compose.functions import numbers
from fprune.errors import StageError
from fprune.intake import unwrapped
from fprune.masks import Masks
from fprune.model import Model
from fprune.training.back import taken_back
from fprune.training.hold import zero_after_steps, zero_pruned
from fprune.training.penalty import Penalty, penalised

__all__ = ["Train", "trained"]

Train = Callable[[nn.Module], Any]
"""Trains a module in place; returns None, the module, or numbers by name."""

_NO_PENALTY: Penalty = {}


def trained(
    model: Model, masks: Masks, train: Train, penalty: Penalty = _NO_PENALTY
) -> tuple[Model, Mapping[str, float]]:
    """Train a copy of a model, its pruned weights held at zero.

    Examples:
        >>> import torch
        >>> def train(module):
        ...     sgd = torch.optim.SGD(module.parameters(), lr=0.5)
        ...     module(torch.ones(1, 2)).sum().backward()
        ...     sgd.step()
        ...     return {"steps": 1}
        >>> model = Model.from_module(nn.Linear(2, 1)).replace({"weight": torch.zeros(1, 2)})
        >>> after, metrics = trained(model, Masks({"weight": torch.tensor([[True, False]])}), train)
        >>> after["weight"].tolist(), metrics
        ([[-0.5, 0.0]], {'steps': 1.0})

    Args:
        model: the model; it keeps its values.
        masks: what is held at zero.
        train: the user's function.
        penalty: parameter name -> what to add to its gradient before every optimizer step.

    Returns:
        The trained model, and the numbers the function returned.

    Raises:
        StageError: the function changed names or shapes, un-zeroed pruned weights other than by an optimizer step, or
            returned something else.
        DivergenceError: training made a value non-finite.
    """
    module = model.to_module()
    zero_pruned(module, masks)
    with zero_after_steps(module, masks), penalised(module, penalty):
        returned = train(module)
    return taken_back(model, module, masks), _metrics(returned, module, train)


def _metrics(returned: object, module: nn.Module, fn: object) -> Mapping[str, float]:
    if returned is None:
        return {}
    if isinstance(returned, nn.Module):
        if unwrapped(returned) is module:
            return {}
        raise StageError(
            f"{expression(fn)} returned another module than it was given",
            hint="train the module in place; values of another one are lost",
        )
    return numbers(returned, fn)
