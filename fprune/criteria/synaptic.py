"""Scores without data: how much of what a network of absolute weights passes on goes through each weight."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad

from fprune import tree
from fprune.criteria.batches import differentiated, running, told
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.derivatives import Weights
from fprune.criteria.precision import wide_dtype
from fprune.errors import CompositionError
from fprune.inputs import Inputs
from fprune.layers import Layer
from fprune.model import Model
from fprune.scope import Scope
from fprune.structure.outputs import leaves

__all__ = ["synaptic_flow"]

_HINT = "synflow().masks(model, config, example_inputs=(x,)); only shapes matter, and one sample is enough"


@criterion(grain="element", reads="scope")
def synaptic_flow(scope: Scope, layers: Sequence[Layer], grain: Grain) -> dict[str, Tensor]:
    """Score a weight by its share of the flow through a network whose parameters are all positive.

    score(i) = |w_i| dR/d|w_i|, where R is the sum of the outputs for an input of ones when every parameter is replaced
    by its absolute value. In a network of linear layers, convolutions and rectifiers R is the sum over all paths from
    an input to an output of the product of the absolute weights on it, and the scores of every layer add up to R.

    The model runs in evaluation mode and in float64, since products over many layers leave the range of float32.
    Floating point inputs become ones, others (token numbers) stay as they are. Running means of norms read as 0, so
    that nothing turns negative; running variances and other buffers stay. A layer norm takes off the mean, which
    leaves little of an input of ones: this score is for networks without them.

    Examples:
        >>> from fprune import Model
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
        >>> weights = {"0.weight": torch.tensor([[2.0], [-3.0]]), "1.weight": torch.tensor([[5.0, 1.0]])}
        >>> scope = Scope.of(Model.from_module(net).replace(weights), example_inputs=torch.zeros(1, 1))
        >>> {name: scores.tolist() for name, scores in synaptic_flow()(scope, scope.layers).items()}
        {'0.weight': [[10.0], [3.0]], '1.weight': [[10.0, 3.0]]}

    Args:
        scope: brings the model and the example inputs; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements; filled in by the allocation.

    Returns:
        Weight name -> scores, in float64.

    Raises:
        CompositionError: the scope has no model, or no example inputs.

    References:
        Tanaka et al, `Pruning neural networks without any data by iteratively conserving synaptic flow
        <https://arxiv.org/abs/2006.05467>`_, 2020
    """
    if scope.example_inputs is None:
        raise CompositionError("synflow needs example_inputs, and they are not given", hint=_HINT)
    with running(scope, "synflow") as model:
        positive, ones = _positive(model), _ones(scope.example_inputs)

        def flow(weights: Weights) -> Tensor:
            with told("synflow, on an input of ones in float64"):
                found = _outputs(ones, positive.replace(weights)(*ones.args, **ones.kwargs))
            return torch.stack([tensor.sum() for tensor in found]).sum()

        weights = differentiated(positive, layers)
        slopes = cast(Weights, grad(flow)(weights))
        return {name: weight * slopes[name] for name, weight in weights.items()}


def _positive(model: Model) -> Model:
    """The model with absolute parameters, in float64."""
    params = {name: _widened(value).abs() for name, value in model.items()}
    buffers = {
        name: torch.zeros_like(_widened(value)) if name.endswith("running_mean") else _widened(value)
        for name, value in model.buffers.items()
    }
    return model.replace(params, buffers)


def _ones(given: Inputs) -> Inputs:
    args, kwargs = tree.map(_one, (given.args, dict(given.kwargs)))
    return Inputs(args, cast("Mapping[str, Any]", kwargs), outputs=given.outputs)


def _one(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.ones_like(_widened(leaf)) if leaf.is_floating_point() else leaf.clone()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(wide_dtype(tensor)) if tensor.is_floating_point() else tensor


def _outputs(given: Inputs, returned: Any) -> list[Tensor]:
    """The tensors of numbers that a forward pass returned; those that matter, where the user said which."""
    chosen = returned if given.outputs is None else given.outputs(returned)
    return [tensor for tensor in leaves(chosen) if tensor.is_floating_point()]
