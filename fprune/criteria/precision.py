"""The dtype in which sums are taken, so that a score does not depend on the order of the terms."""

import torch
from torch import Tensor

__all__ = ["wide_dtype"]


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype for sums over a tensor: float64, where the device has it.

    A sum of float32 numbers taken in float64 and rounded at the end is the same for every order of the terms, but for
    about one case in 10^8. So permuting input channels, or removing those that are zero, leaves scores as they are.

    Examples:
        >>> wide_dtype(torch.ones(2))
        torch.float64

    Args:
        tensor: what is summed.

    Returns:
        float64, or float32 on devices without it.
    """
    return torch.float32 if tensor.device.type == "mps" else torch.float64
