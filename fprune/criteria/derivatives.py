"""First and second derivatives of the user's loss with respect to the weights of layers, one batch at a time."""

import functools
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad_and_value, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from fprune.criteria.batches import Loss, finite, losses
from fprune.masks import zeroed
from fprune.model import Model
from fprune.scope import Scope

__all__ = ["Weights", "gradients", "only_alive", "plain_attention", "products", "wide"]

Weights: TypeAlias = dict[str, Tensor]


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least, since products of half precision numbers soon vanish or overflow."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def gradients(model: Model, loss: Loss, weights: Weights, *, strict: bool = True) -> Callable[[Any, str], Weights]:
    """Return the function that gives the gradient of the loss on a batch.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False))
        >>> slope = gradients(model, lambda model, x: model(x).sum(), {"weight": model["weight"]})
        >>> slope(torch.tensor([[3.0, 4.0]]), "batch 0")
        {'weight': tensor([[3., 4.]])}

    Args:
        model: what `running` gives.
        loss: the user's function.
        weights: what to differentiate with respect to.
        strict: whether to refuse a loss that depends on none of them.

    Returns:
        A function of a batch and its place in words; it refuses a loss that is not finite.
    """
    slope = _slope(model, loss, strict)

    def gradient(batch: Any, where: str) -> Weights:
        found, value = slope(batch, where)(weights)
        finite(value, where)
        return {name: wide(found[name]) for name in weights}

    return gradient


def products(model: Model, loss: Loss, weights: Weights) -> Callable[[Any, str, Weights], Weights]:
    """Return the function that gives the Hessian of the loss on a batch, times a direction.

    H v is the derivative of the gradient along v: one forward-mode pass over a backward pass.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False))
        >>> times = products(model, lambda model, x: model(x).square().sum(), {"weight": model["weight"]})
        >>> times(torch.tensor([[1.0, 3.0]]), "batch 0", {"weight": torch.tensor([[1.0, 0.0]])})
        {'weight': tensor([[2., 6.]])}

    Args:
        model: what `running` gives.
        loss: the user's function.
        weights: what to differentiate with respect to.

    Returns:
        A function of a batch, its place in words, and a direction; it refuses a loss that is not finite.
    """
    slope = _slope(model, loss)

    def product(batch: Any, where: str, direction: Weights) -> Weights:
        _load_forward_mode()
        along = {name: direction[name].to(weight.dtype) for name, weight in weights.items()}
        with plain_attention():
            found = jvp(slope(batch, where), (weights,), (along,), has_aux=True)
        _, turned, value = cast("tuple[Weights, Weights, Tensor]", found)
        finite(value, where)
        return {name: wide(turned[name]) for name in weights}

    return product


def _slope(
    model: Model, loss: Loss, strict: bool = True
) -> Callable[[Any, str], Callable[[Weights], tuple[Weights, Tensor]]]:
    """Return what makes gradient and value a function of the weights; transforms never see the batch itself."""
    value = losses(model, loss, strict=strict)

    def at(batch: Any, where: str) -> Callable[[Weights], tuple[Weights, Tensor]]:
        def of_weights(weights: Weights) -> Tensor:
            return value(weights, batch, where)

        return cast("Callable[[Weights], tuple[Weights, Tensor]]", grad_and_value(of_weights))

    return at


@functools.cache
def _load_forward_mode() -> None:
    # Its first use imports parts of torch that warn about other parts of torch.
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@contextmanager
def plain_attention() -> Generator[None]:
    """Compute attention by matrix products: its fused kernels have no second derivative and cannot be batched."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def only_alive(scope: Scope, tensors: Weights) -> Weights:
    """Set to 0 what inherited masks removed, so that it neither moves nor is counted."""
    masks = scope.masks
    return {n: zeroed(value, masks[n].to(value.device)) if n in masks else value for n, value in tensors.items()}
