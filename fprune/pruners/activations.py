"""Pruners that look at what comes out of the layers on data."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fprune.allocate import Allocation, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria.activations import Forward, activity
from fprune.criteria.batches import Batches, check_data
from fprune.criteria.points import Activation, check_activation, structural
from fprune.masks import Masks

__all__ = ["apoz", "mean_activation"]


def _checks(who: str) -> Callable[..., None]:
    def check(forward: object, batches: object, *rest: Any, activation: object = None, **options: Any) -> None:
        del rest, options
        check_data(who, forward, batches, "forward")
        check_activation(activation)

    return check


@pruner(needs=structural, check=_checks("apoz"))
def apoz(
    params: Mapping[str, Tensor],
    config: Config,
    forward: Forward,
    batches: Batches,
    allocation: Allocation = per_layer,
    *,
    activation: Activation = None,
    training: bool = False,
) -> Masks:
    """Remove the output channels that are zero most often.

    score(c) = share of samples and positions at which channel c is not 0 after the activation function; 1 - APoZ, the
    average percentage of zeros. The lowest floor(s * C) go, ties by index.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> model = Model.from_module(net).replace({"0.weight": torch.eye(2)})
        >>> batches = [torch.tensor([[1.0, -4.0], [2.0, 3.0]]), torch.tensor([[5.0, -6.0]])]
        >>> first = [{"op_names": ["0"], "sparsity": 0.5}]
        >>> stage = apoz(lambda model, x: model(x), batches)
        >>> stage.masks(model, first, example_inputs=torch.ones(1, 2))["0.weight"].flatten()
        tensor([ True, False])

    Args:
        params: a `Model`.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        forward: `forward(model, batch)` runs the model, without gradients; `model` is called like the module:
            `model(x)`, `model(**batch)`. What it returns is not looked at.
        batches: handed to `forward` one after the other, untouched; a list or a DataLoader.
        allocation: how the budget spreads over layers, and what lives and dies together.
        activation: where a channel is measured. None: after the first activation function behind the layer, through
            norms and pointwise operators, as the structure of the model shows it (`example_inputs` are needed), and
            after the layer itself where another value joins before. Else a function of the layer's output: `"relu"`,
            `"relu6"`, `"gelu"`, or any callable.
        training: run in training mode; evaluation mode by default, whatever the model's flag. Nothing of the model
            changes in either.

    Returns:
        One bool mask for each selected name, `(out, 1, ...)`, and one for its bias; names left out stay dense.

    Raises:
        CompositionError: there is no model to run, or `activation` is None and there are no example inputs.
        ConfigTypeError: `batches` can be read only once.
        ScoreError: the forward passes never reach a layer, or what comes out of one is not finite.

    References:
        Hu et al, `Network Trimming <https://arxiv.org/abs/1607.03250>`_, 2016
    """
    return allocation(activity(forward, batches, "nonzero", activation, training), params, config)


@pruner(needs=structural, check=_checks("mean_activation"))
def mean_activation(
    params: Mapping[str, Tensor],
    config: Config,
    forward: Forward,
    batches: Batches,
    allocation: Allocation = per_layer,
    *,
    activation: Activation = None,
    training: bool = False,
) -> Masks:
    """Remove the output channels with the smallest activations.

    score(c) = mean over samples and positions of |a_c| after the activation function, which for ReLU is the mean of
    the activation. The lowest floor(s * C) go, ties by index.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> model = Model.from_module(net).replace({"0.weight": torch.eye(2)})
        >>> batches = [torch.tensor([[1.0, -9.0], [1.0, 3.0]])]
        >>> first = [{"op_names": ["0"], "sparsity": 0.5}]
        >>> stage = mean_activation(lambda model, x: model(x), batches)
        >>> stage.masks(model, first, example_inputs=torch.ones(1, 2))["0.weight"].flatten()
        tensor([False,  True])

    Args:
        params: a `Model`.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        forward: `forward(model, batch)` runs the model, without gradients; `model` is called like the module:
            `model(x)`, `model(**batch)`. What it returns is not looked at.
        batches: handed to `forward` one after the other, untouched; a list or a DataLoader.
        allocation: how the budget spreads over layers, and what lives and dies together.
        activation: where a channel is measured, as in `apoz`.
        training: run in training mode; evaluation mode by default, whatever the model's flag. Nothing of the model
            changes in either.

    Returns:
        One bool mask for each selected name, `(out, 1, ...)`, and one for its bias; names left out stay dense.

    Raises:
        CompositionError: there is no model to run, or `activation` is None and there are no example inputs.
        ConfigTypeError: `batches` can be read only once.
        ScoreError: the forward passes never reach a layer, or what comes out of one is not finite.

    References:
        Molchanov et al, `Pruning Convolutional Neural Networks <https://arxiv.org/abs/1611.06440>`_, 2017
    """
    return allocation(activity(forward, batches, "size", activation, training), params, config)
