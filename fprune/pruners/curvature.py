"""Pruners that look at the curvature of a loss: the change of the loss without a weight, to second order."""

from collections.abc import Mapping

from torch import Tensor

from fprune.allocate import Allocation, globally
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria import curvature, fisher_diagonal
from fprune.criteria.batches import Batches, Loss
from fprune.criteria.curvature import check_probes
from fprune.masks import Masks
from fprune.pruners.options import Granularity, check_scored

__all__ = ["fisher", "hessian"]


def _check_fisher(
    loss: object,
    batches: object,
    allocation: object = globally,
    *,
    granularity: object = "element",
    training: object = False,
) -> None:
    check_scored("fisher", loss, batches, granularity, training=training)


@pruner(check=_check_fisher)
def fisher(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = globally,
    *,
    granularity: Granularity = "element",
    training: bool = False,
) -> Masks:
    """Remove the weights without which the loss rises least, with the Fisher information for its curvature.

    score(i) = 1/2 F_i w_i^2 with F_i = 1/N * sum over samples n of g_ni^2, where g_n is the gradient of the loss of
    sample n alone; the lowest floor(s * n) of a rule go, ties by (name, index). Where the loss is a negative
    log-likelihood of a trained model, F approximates the diagonal of its Hessian.

    A sample's loss is `loss(model, batch)` of a batch with this one sample, so means and sums over a batch give the
    same. The first dimension of every tensor in a batch counts the samples. Linear layers are computed for all samples
    by one matrix product; other layers some samples at a time.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1)).replace({"weight": torch.tensor([[1.0, 2.0]])})
        >>> batches = [torch.tensor([[3.0, 1.0], [-3.0, 1.0]])]
        >>> fisher(lambda model, x: model(x).mean(), batches).masks(model, 0.5)["weight"]
        tensor([[ True, False]])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(model, batch)`, one number; the model is called like the module.
        batches: batches that can be read again and again, a list or a DataLoader.
        allocation: how the budget spreads over layers.
        granularity: `"element"`, or `"channel"` for whole output channels, whose score is the sum.
        training: whether the model runs in training mode; in evaluation mode by default, whatever its own flag.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, nothing that can be run.
        ConfigTypeError: `batches` can be read only once, or is a single batch.
        ScoreError: the loss of a batch is not one finite number, or a batch does not fall into samples.

    References:
        Theis et al, `Faster gaze prediction with dense networks and Fisher pruning
        <https://arxiv.org/abs/1801.05787>`_, 2018
    """
    return allocation(fisher_diagonal(loss, batches, training=training).at(granularity), params, config)


def _check_hessian(
    loss: object,
    batches: object,
    allocation: object = globally,
    *,
    probes: object = 4,
    granularity: object = "element",
    training: object = False,
) -> None:
    check_scored("hessian", loss, batches, granularity, training=training)
    check_probes(probes)


@pruner(check=_check_hessian)
def hessian(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss,
    batches: Batches,
    allocation: Allocation = globally,
    *,
    probes: int = 4,
    granularity: Granularity = "element",
    training: bool = False,
) -> Masks:
    """Remove the weights along which the loss bends least, as Optimal Brain Damage does.

    score(i) = 1/2 h_i w_i^2, where h is Hutchinson's estimate of the Hessian's diagonal: the mean over batches and
    draws of v * (H v), elementwise, for random signs v. The lowest floor(s * n) of a rule go, ties by (name, index).
    Weights along which the loss bends down have negative scores and go first. The estimate has no bias; its error falls
    with the square root of the number of draws, batches times `probes`.

    Examples:
        >>> import torch
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1)).replace({"weight": torch.tensor([[1.0, 2.0]])})
        >>> batches = [torch.tensor([[9.0, 0.0], [0.0, 1.0]])]
        >>> hessian(lambda model, x: model(x).square().mean(), batches).masks(model, 0.5)["weight"]
        tensor([[ True, False]])

    Args:
        params: a callable `Model`, or what a run gives.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(model, batch)`, one number, twice differentiable; the model is called like the module.
        batches: batches that can be read again and again, a list or a DataLoader.
        allocation: how the budget spreads over layers.
        probes: how many draws for each batch, at least 1; each costs about two backward passes.
        granularity: `"element"`, or `"channel"` for whole output channels, whose score is the sum.
        training: whether the model runs in training mode; in evaluation mode by default, whatever its own flag.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        CompositionError: `params` is a mapping of tensors, nothing that can be run.
        ConfigTypeError: `batches` can be read only once, or is a single batch; `probes` is no int.
        ScoreError: the loss of a batch is not one finite number.

    References:
        LeCun et al, `Optimal Brain Damage
        <https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html>`_, 1989
    """
    return allocation(curvature(loss, batches, probes=probes, training=training).at(granularity), params, config)
