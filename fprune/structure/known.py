"""What is known of a value before any input is seen."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import Tensor

from fprune.bools import any_along, is_any, nonzero
from fprune.structure.arguments import rebuilt
from fprune.structure.graph import Shape


@attrs.frozen(eq=False)
class Along:
    """Per index of a dimension: depends on the input, non-zero somewhere, one constant everywhere, that constant."""

    taint: Tensor
    nonzero: Tensor
    constant: Tensor
    value: Tensor

    @property
    def zero(self) -> Tensor:
        """The slice is 0 whatever the input."""
        return ~self.taint & ~self.nonzero


@attrs.frozen(eq=False)
class Known:
    """What is known of a value.

    Args:
        taint: True where the value depends on the input; broadcastable to the value, same number of dimensions.
        value: the constant elsewhere (0 under the taint); likewise.
        shape: the value's own shape.
    """

    taint: Tensor
    value: Tensor
    shape: Shape

    @staticmethod
    def of(taint: Tensor, value: Tensor, shape: Shape) -> "Known":
        """Clear the values that are not known, so that they can never leak into one that is."""
        return Known(taint, torch.where(taint, torch.zeros((), dtype=value.dtype, device=value.device), value), shape)

    @staticmethod
    def constant(tensor: Tensor) -> "Known":
        """A tensor that no input reaches."""
        taint = torch.zeros((1,) * tensor.ndim, dtype=torch.bool, device=tensor.device)
        return Known(taint, tensor, tuple(tensor.shape))

    @staticmethod
    def nothing(shape: Shape, like: Tensor) -> "Known":
        """A value every element of which may depend on the input, held with the device and dtype of `like`."""
        ones = (1,) * len(shape)
        return Known(torch.ones(ones, dtype=torch.bool, device=like.device), like.new_zeros(ones), shape)

    @cached_property
    def tainted(self) -> bool:
        """Whether any element depends on the input."""
        return is_any(self.taint)

    @cached_property
    def nonzero(self) -> Tensor:
        """Where the known part of the value is not 0."""
        return nonzero(self.value)

    @property
    def zero(self) -> Tensor:
        """Where the value is the constant 0."""
        return ~(self.taint | self.nonzero)

    def varies(self, dim: int) -> bool:
        """Whether more than one index of a dimension is told apart."""
        return self.taint.shape[dim] > 1 or self.value.shape[dim] > 1

    def over(self, dims: list[int]) -> "Known":
        """The same, with these dimensions at their full size."""
        shape = [n if d in dims else -1 for d, n in enumerate(self.shape)]
        return Known(self.taint.expand(shape), self.value.expand(shape), self.shape)

    def along(self, dim: int) -> Along:
        """What is known of each index along a dimension."""
        taint, live, value = (self._rows(t, dim) for t in (self.taint, self.nonzero, self.value))
        first, size = value[:, 0], self.shape[dim]
        constant = ~first.isnan() if value.shape[1] == 1 else (value == first[:, None]).all(1)
        each = any_along(taint, 1), any_along(live, 1), constant, first
        return Along(*(t.expand(size) for t in each))

    def _rows(self, tensor: Tensor, dim: int) -> Tensor:
        return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)


def squeezed(tensor: Tensor) -> Tensor:
    """Dimensions along which a tensor is only repeated, cut down to 1."""
    for d, (n, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if n > 1 and stride == 0:
            tensor = tensor.narrow(d, 0, 1)
    return tensor


def mapped(tree: Any, fn: Callable[[Known], Any]) -> Any:
    """An argument tree with each `Known` replaced."""
    return rebuilt(tree, lambda entry: fn(entry) if isinstance(entry, Known) else entry)
