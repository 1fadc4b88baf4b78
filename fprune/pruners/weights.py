"""Pruners that look at the weights alone, and the one that looks at nothing."""

from collections.abc import Mapping

import attrs
from torch import Tensor

from fprune.allocate import Allocation, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria import channel_norm, geometric_distance, magnitude, uniform
from fprune.masks import Masks
from fprune.pruners.options import Granularity, check_granularity

__all__ = ["fpgm", "l1", "l2", "level", "random"]


@pruner
def level(params: Mapping[str, Tensor], config: Config, allocation: Allocation = per_layer) -> Masks:
    """Remove the weights with the smallest absolute value.

    score(i) = |w_i|, one score for each element; the lowest floor(s * n) go, ties by (name, index).

    Examples:
        >>> from fprune.allocate import globally
        >>> from torch import tensor
        >>> params = {"a": tensor([[8.0, -7.0, 6.0, 5.0]]), "b": tensor([[4.0, -3.0, 2.0, 1.0]])}
        >>> level().masks(params, Config(0.5))["a"]
        tensor([[ True,  True, False, False]])
        >>> masks = level(globally).masks(params, Config(0.375))
        >>> masks["a"].tolist(), masks["b"].tolist()
        ([[True, True, True, True]], [[True, False, False, False]])

    Args:
        params: name -> weight of any shape; a `Model` is one.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers: `per_layer`, `globally`, `balanced(...)`, `n_m(2, 4)`.

    Returns:
        One bool mask of the weight's shape for each selected name; names left out stay dense.

    Raises:
        ModelError: a weight is not finite; names it and the first bad index.
        ConfigError: the allocation cannot spread what the config asks for.

    References:
        Han et al, `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015
    """
    return allocation(magnitude(), params, config)


@pruner
def l1(params: Mapping[str, Tensor], config: Config, allocation: Allocation = per_layer) -> Masks:
    """Remove the output channels with the smallest L1 norm.

    score(i) = sum over j of |W[i, j]|, one score for each output channel; the lowest floor(s * C) go, ties by index.

    Examples:
        >>> from torch import tensor
        >>> l1().masks({"w": tensor([[3.0, -1.0], [0.5, 0.5]])}, Config(0.5))
        Masks(w=1/2 channels)

    Args:
        params: name -> weight, `(out, *rest)`; a `Model` is one.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers, and what lives and dies together.

    Returns:
        One bool mask for each selected name, `(out, 1, ...)`, and one for its bias; names left out stay dense.

    Raises:
        ModelError: a weight is not finite; names it and the first bad index.
        ConfigError: the allocation cannot spread what the config asks for.

    References:
        Li et al, `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2016
    """
    return allocation(channel_norm(p=1), params, config)


@pruner
def l2(params: Mapping[str, Tensor], config: Config, allocation: Allocation = per_layer) -> Masks:
    """Remove the output channels with the smallest L2 norm.

    score(i) = sqrt(sum over j of W[i, j]^2), one score for each output channel; the lowest floor(s * C) go, ties by
    index.

    Examples:
        >>> from torch import tensor
        >>> params = {"w": tensor([[3.0, 0.0], [2.0, 2.0]])}
        >>> l1().masks(params, Config(0.5))["w"].flatten(), l2().masks(params, Config(0.5))["w"].flatten()
        (tensor([False,  True]), tensor([ True, False]))

    Args:
        params: name -> weight, `(out, *rest)`; a `Model` is one.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers, and what lives and dies together.

    Returns:
        One bool mask for each selected name, `(out, 1, ...)`, and one for its bias; names left out stay dense.

    Raises:
        ModelError: a weight is not finite; names it and the first bad index.
        ConfigError: the allocation cannot spread what the config asks for.

    References:
        He et al, `Channel Pruning for Accelerating Very Deep Neural Networks <https://arxiv.org/abs/1707.06168>`_, 2017
    """
    return allocation(channel_norm(p=2), params, config)


@pruner
def fpgm(params: Mapping[str, Tensor], config: Config, allocation: Allocation = per_layer) -> Masks:
    """Remove the output channels that are nearest to the others of their layer, by the geometric median.

    score(j) = sum over k of ||W[j] - W[k]||_2, over the layer's filters that are not masked; the lowest floor(s * C)
    go, ties by index. A filter in the middle of the others can be replaced by them, however large it is.

    Examples:
        >>> from torch import tensor
        >>> fpgm().masks({"w": tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])}, Config(0.4))["w"].flatten()
        tensor([ True, False,  True])

    Args:
        params: name -> weight, `(out, *rest)`; a `Model` is one.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers, and what lives and dies together.

    Returns:
        One bool mask for each selected name, `(out, 1, ...)`, and one for its bias; names left out stay dense.

    Raises:
        ModelError: a weight is not finite; names it and the first bad index.
        ConfigError: the allocation cannot spread what the config asks for.

    References:
        He et al, `Filter Pruning via Geometric Median <https://arxiv.org/abs/1811.00250>`_, 2019
    """
    return allocation(geometric_distance(), params, config)


def _check_random(allocation: object = per_layer, *, granularity: object = "element") -> None:
    check_granularity("random", granularity)


@pruner(check=_check_random)
def random(
    params: Mapping[str, Tensor],
    config: Config,
    allocation: Allocation = per_layer,
    *,
    granularity: Granularity = "element",
) -> Masks:
    """Remove weights or output channels at random, the baseline for every other pruner.

    score(i) ~ U[0, 1), drawn from a generator of its own for each weight name and seed: other layers, their order and
    the device make no difference, another name or another seed does.

    Examples:
        >>> import torch
        >>> params = {"w": torch.ones(8, 2)}
        >>> random(granularity="channel").masks(params, Config(0.5), seed=1)
        Masks(w=4/8 channels)
        >>> first, again = (random().masks(params, Config(0.5), seed=1) for _ in range(2))
        >>> first == again, first == random().masks(params, Config(0.5), seed=2)
        (True, False)

    Args:
        params: name -> weight; a `Model` is one.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        allocation: how the budget spreads over layers; those that need channels draw channels.
        granularity: `"element"` for single weights, `"channel"` for output channels with their bias.

    Returns:
        One bool mask for each selected name; names left out stay dense.

    Raises:
        ModelError: a weight is not finite; names it and the first bad index.
        ConfigError: the allocation cannot spread what the config asks for.
    """
    scores = uniform() if granularity == "element" else attrs.evolve(uniform(), grain="channel")
    return allocation(scores, params, config)
