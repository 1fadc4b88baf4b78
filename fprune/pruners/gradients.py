"""Pruners that look at gradients: of a loss on batches, or of the network itself."""

from collections.abc import Mapping
from typing import Literal

import attrs
from torch import Tensor

from fprune.allocate import Allocation, globally, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria import activation_taylor, gradient_flow, sensitivity, squared_change, synaptic_flow
from fprune.criteria.batches import Batches, Loss
from fprune.criteria.gates import Behind, check_behind
from fprune.errors import ConfigError, ConfigTypeError
from fprune.masks import Masks
from fprune.progress import progress
from fprune.pruners.options import Granularity, check_granularity, check_scored
from fprune.scope import Scope

__all__ = ["grasp", "snip", "synflow", "taylor"]


def _check_taylor(
    loss: object,
    batches: object,
    allocation: object = per_layer,
    *,
    granularity: object = "channel",
    joint: object = False,
    form: object = "weight",
    behind: object = "layer",
    training: object = False,
) -> None:
    check_scored("taylor", loss, batches, granularity, joint=joint, training=training)
    check_behind(behind)
    if form not in ("weight", "gate"):
        raise ConfigError(f"taylor: form: expected 'weight' or 'gate', got {form!r}")
    if form == "gate" and (joint or granularity != "channel"):
        found = "taylor: a gate is before whole channels, whose weights count together"
        raise ConfigError(found, hint="leave out joint and granularity, or form='gate'")
    if form == "weight" and behind != "layer":
        raise ConfigError("taylor: behind is where gates are", hint="form='gate'")


def _needs_taylor(*data: object, behind: object = "layer", **options: object) -> tuple[str, ...]:
    del data, options
    return ("structure",) if behind == "norm" else ()


@pruner(needs=_needs_taylor, check=_check_taylor)
def taylor(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = per_layer,
    *,
    granularity: Granularity = "channel",
    joint: bool = False,
    form: Literal["weight", "gate"] = "weight",
    behind: Behind = "layer",
    training: bool = False,
) -> Masks:
    """Remove the output channels without which the loss changes least, to first order.

    score(c) = sum over batches of sum over the weights i of channel c of (g_i w_i)^2, with the gradient g of the loss
    on a batch; the lowest floor(s * C) go, ties by index. With `joint` the terms of a channel are added before they are
    squared, (sum of g_i w_i)^2, so that changes of opposite sign cancel. With `form="gate"` they are the changes of the
    channel's activations, score(c) = sum over batches of (dL/dz_c)^2 with a gate z_c = 1 before them.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> model = Model.from_module(net).replace({"weight": torch.tensor([[1.0, 1.0], [9.0, 9.0]])})
        >>> def loss(model, batch):
        ...     x, target = batch
        ...     return (model(x) - target).square().mean()
        >>> pruner = taylor(loss, [(torch.ones(4, 2), torch.tensor([3.0, 18.0]))])
        >>> pruner.masks(model, 0.5)  # the second output is right, so its weights have no gradient
        Masks(weight=1/2 channels)
        >>> pruner.masks(model, 0.5)["weight"].flatten()
        tensor([ True, False])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(model, batch)`, one number; the model is called like the module.
        batches: batches that can be read again and again, a list or a DataLoader.
        allocation: how the budget spreads over layers, and what lives and dies together.
        granularity: `"channel"`, or `"element"` for single weights.
        joint: whether the weights of a channel count together.
        form: `"weight"`, or `"gate"`.
        behind: where gates are, behind the `"layer"`, or behind the `"norm"` that follows it, as the structure of the
            model shows it (`example_inputs` are needed).
        training: whether the model runs in training mode; in evaluation mode by default, whatever its own flag.

    Returns:
        One bool mask for each selected name, and one for its bias when channels go; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, nothing that can be run.
        ConfigTypeError: `batches` can be read only once, or is a single batch.
        ScoreError: the loss of a batch is not one finite number.

    References:
        Molchanov et al, `Importance Estimation for Neural Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019
    """
    if form == "gate":
        return allocation(activation_taylor(loss, batches, behind, training=training), params, config)
    scores = squared_change(loss, batches, training=training, joint=joint)
    return allocation(scores.at(granularity), params, config)


def _check_snip(
    loss: object,
    batches: object,
    allocation: object = globally,
    *,
    granularity: object = "element",
    training: object = False,
) -> None:
    check_scored("snip", loss, batches, granularity, training=training)


@pruner(check=_check_snip)
def snip(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = globally,
    *,
    granularity: Granularity = "element",
    training: bool = False,
) -> Masks:
    """Remove the weights to which the loss is least sensitive, as the paper does before training and over all layers.

    score(i) = |g_i w_i| with the gradient g of the loss summed over the batches, the derivative with respect to a gate
    on the weight; the lowest floor(s * n) of a rule go, ties by (name, index). The paper divides by the sum of all
    scores, which changes no rank.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(3, 1)).replace({"weight": torch.tensor([[2.0, -5.0, 1.0]])})
        >>> pruner = snip(lambda model, x: model(x).sum(), [torch.tensor([[3.0, 1.0, -9.0]])])
        >>> pruner.masks(model, 0.34)["weight"]
        tensor([[ True, False,  True]])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(model, batch)`, one number; the model is called like the module.
        batches: batches that can be read again and again, a list or a DataLoader.
        allocation: how the budget spreads over layers; the paper's by default.
        granularity: `"element"`, or `"channel"` for whole output channels, whose score is the sum.
        training: whether the model runs in training mode; in evaluation mode by default, whatever its own flag.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, nothing that can be run.
        ConfigTypeError: `batches` can be read only once, or is a single batch.
        ScoreError: the loss of a batch is not one finite number.

    References:
        Lee et al, `SNIP: Single-shot Network Pruning based on Connection Sensitivity
        <https://arxiv.org/abs/1810.02340>`_, 2019
    """
    return allocation(sensitivity(loss, batches, training=training).at(granularity), params, config)


def _check_grasp(
    loss: object,
    batches: object,
    allocation: object = globally,
    *,
    granularity: object = "element",
    training: object = False,
) -> None:
    check_scored("grasp", loss, batches, granularity, training=training)


@pruner(check=_check_grasp)
def grasp(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = globally,
    *,
    granularity: Granularity = "element",
    training: bool = False,
) -> Masks:
    """Remove the weights without which the gradient keeps most of its norm, before training and over all layers.

    score = w * (H g), elementwise, with gradient and Hessian of the loss summed over the batches; the lowest floor(s *
    n) of a rule go, ties by (name, index). Without weight i, g.g changes by -2 w_i (H g)_i to first order, so those go
    first whose removal makes it grow. This is the paper's score -w * (H g), of which the highest go, with its sign
    turned.

    The paper divides the logits by a temperature of 200, so that the softmax is far from saturated. The loss is the
    caller's, so that is written there: `F.cross_entropy(model(x) / 200, y)`.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1)).replace({"weight": torch.tensor([[1.0, -1.0]])})
        >>> pruner = grasp(lambda model, x: model(x).square().sum(), [torch.tensor([[3.0, 1.0]])])
        >>> pruner.masks(model.replace({"bias": torch.zeros(1)}), 0.5)["weight"]
        tensor([[ True, False]])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(model, batch)`, one number, twice differentiable; the model is called like the module.
        batches: batches that can be read again and again, a list or a DataLoader; they are read twice.
        allocation: how the budget spreads over layers; the paper's by default.
        granularity: `"element"`, or `"channel"` for whole output channels, whose score is the sum.
        training: whether the model runs in training mode; in evaluation mode by default, whatever its own flag.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, nothing that can be run.
        ConfigTypeError: `batches` can be read only once, or is a single batch.
        ScoreError: the loss of a batch is not one finite number.

    References:
        Wang et al, `Picking Winning Tickets Before Training by Preserving Gradient Flow
        <https://arxiv.org/abs/2002.07376>`_, 2020
    """
    return allocation(gradient_flow(loss, batches, training=training).at(granularity), params, config)


def _check_synflow(allocation: object = globally, *, rounds: object = 100, granularity: object = "element") -> None:
    check_granularity("synflow", granularity)
    if type(rounds) is not int:
        raise ConfigTypeError(f"synflow: rounds: expected an int, got {rounds!r} ({type(rounds).__name__})")
    if rounds < 1:
        raise ConfigError(f"synflow: rounds: expected at least 1, got {rounds}", hint="the paper takes 100")


@pruner(needs=("example_inputs",), check=_check_synflow)
def synflow(
    params: Mapping[str, Tensor],
    config: Config,
    allocation: Allocation = globally,
    *,
    rounds: int = 100,
    granularity: Granularity = "element",
) -> Masks:
    """Remove the weights that pass on least of an input of ones, without any data and over all layers.

    score(i) = |w_i| dR/d|w_i|, with R the sum of the outputs for an input of ones and absolute parameters. Scores are
    taken again after every step: round k of n leaves a density of d^(k / n), where d = 1 - s, so that no layer is
    emptied although the budget is shared. Masks and counts of the last round are those asked for.

    The model runs in evaluation mode and in float64; running means of norms read as 0, other buffers stay as they are.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
        >>> weights = {"0.weight": torch.tensor([[2.0], [-3.0]]), "1.weight": torch.tensor([[5.0, 1.0]])}
        >>> masks = synflow().masks(Model.from_module(net).replace(weights), 0.5, example_inputs=torch.zeros(1, 1))
        >>> masks["0.weight"].tolist(), masks["1.weight"].tolist()
        ([[True], [False]], [[True, False]])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers; the paper's by default.
        rounds: n, at least 1; each costs one forward and one backward pass on inputs of the shape of the example's.
        granularity: `"element"`, or `"channel"` for whole output channels, whose score is the sum.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, or there are no example inputs.
        ScoreError: the flow overflows.

    References:
        Tanaka et al, `Pruning neural networks without any data by iteratively conserving synaptic flow
        <https://arxiv.org/abs/2006.05467>`_, 2020
    """
    scope, target = Scope.of(params), Config.of(config)
    if scope.model is not None:  # once, and not in every round
        scope = attrs.evolve(scope, model=scope.model.eval())
    scores = synaptic_flow().at(granularity)
    masks = scope.masks
    for k in progress(range(1, rounds + 1), "synflow", "round"):
        goal = target if k == rounds else target.map(lambda s, part=k / rounds: 1 - (1 - s) ** part)
        masks = masks & allocation(scores, attrs.evolve(scope, masks=masks), goal)
    return masks
