"""Bool tensors as bytes: torch combines and reduces bytes 10 to 40 times faster than bools."""

import torch
from torch import Tensor


def nonzero(tensor: Tensor) -> Tensor:
    """Where a tensor is not 0; a NaN is not.

    Examples:
        >>> nonzero(torch.tensor([0.0, -0.0, float("nan"), 2.0]))
        tensor([False, False,  True,  True])
    """
    return tensor != 0 if tensor.is_complex() else tensor.bool()


def both(a: Tensor, b: Tensor) -> Tensor:
    """`a & b` of two bool tensors, broadcast.

    Examples:
        >>> both(torch.tensor([[True], [False]]), torch.tensor([True, False]))
        tensor([[ True, False],
                [False, False]])
    """
    return (a.view(torch.uint8) & b.view(torch.uint8)).view(torch.bool)


def any_along(tensor: Tensor, dims: int | list[int], *, keepdim: bool = False) -> Tensor:
    """`tensor.any(dims)` of a bool tensor.

    Examples:
        >>> any_along(torch.tensor([[True, False], [False, False]]), 1)
        tensor([ True, False])
    """
    if tensor.numel() == 0 or dims == []:
        return tensor.any(dims, keepdim=keepdim) if dims != [] else tensor
    if isinstance(dims, int) and tensor.shape[dims] == 1:
        return tensor if keepdim else tensor.squeeze(dims)
    return tensor.contiguous().view(torch.uint8).amax(dims, keepdim=keepdim).view(torch.bool)


def is_any(tensor: Tensor) -> bool:
    """`bool(tensor.any())`.

    Examples:
        >>> is_any(torch.tensor([False, True])), is_any(torch.ones(0, dtype=torch.bool))
        (True, False)
    """
    return bool(tensor.contiguous().view(torch.uint8).amax()) if tensor.numel() else False


def is_all(tensor: Tensor) -> bool:
    """`bool(tensor.all())`.

    Examples:
        >>> is_all(torch.tensor([False, True])), is_all(torch.ones(0, dtype=torch.bool))
        (False, True)
    """
    return bool(tensor.contiguous().view(torch.uint8).amin()) if tensor.numel() else True
