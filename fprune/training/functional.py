"""Run a user's loss with some parameters of a module replaced by functions of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["loss_with"]


class _Bound(nn.Module):
    """A module and a loss as one module, so that `functional_call` swaps parameters for as long as the loss runs."""

    def __init__(self, module: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.module, batch)


def loss_with(
    module: nn.Module, params: Mapping[str, Tensor], loss: Callable[[nn.Module, Any], Tensor], batch: Any
) -> Tensor:
    """The loss of a module in which some parameters have other values, through which gradients flow.

    The loss is given the module itself; its buffers, BatchNorm's statistics for one, are updated as always.

    Examples:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> gate = torch.tensor([2.0], requires_grad=True)
        >>> loss = loss_with(layer, {"weight": layer.weight * gate}, lambda net, x: net(x).sum(), torch.ones(1, 1))
        >>> torch.equal(torch.autograd.grad(loss, gate)[0], layer.weight.detach()[0])
        True

    Args:
        module: the module.
        params: name -> value; the further names of a tied parameter follow.
        loss: `loss(module, batch)`.
        batch: handed on as it is.

    Returns:
        What the loss returns.
    """
    swapped = {f"module.{name}": value for name, value in params.items()}
    return torch.func.functional_call(_Bound(module, loss), swapped, (batch,))
