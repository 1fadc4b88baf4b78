"""Whether tensors hold NaN or infinity, quickly, and where."""

from torch import Tensor

__all__ = ["all_finite", "non_finite"]


def all_finite(values: Tensor) -> bool:
    """Whether every entry is a finite number.

    Examples:
        >>> import torch
        >>> all_finite(torch.ones(2)), all_finite(torch.tensor([1.0, float("inf")])), all_finite(torch.tensor([1, 2]))
        (True, False, True)
    """
    if not (values.is_floating_point() or values.is_complex()):
        return True
    # A sum is finite only if every term is, and it is far cheaper than looking at each; it may overflow, though.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def non_finite(values: Tensor) -> str:
    """How many entries are NaN or infinite, and where the first is.

    Examples:
        >>> import torch
        >>> non_finite(torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]]))
        '2 non-finite values (first at [0,1])'
    """
    where = (~values.isfinite()).nonzero()
    first = ",".join(str(int(index)) for index in where[0])
    return f"{len(where)} non-finite value{'s' if len(where) > 1 else ''} (first at [{first}])"
