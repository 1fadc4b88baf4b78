"""Which value of a program each tensor of a recording is: values are numbered in the order in which they appear."""

from typing import Any, cast

import torch
from torch import Tensor

from fprune.structure.arguments import rebuilt
from fprune.structure.graph import Ref


class NeedsData(Exception):
    """The meta device cannot run this model; carries the reason."""


class Numbering:
    """The numbers of the tensors seen so far.

    A tensor that is written in place becomes another value: it is given a new number, as is every other tensor over the
    same memory.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._numbers: dict[int, int] = {}  # id(tensor) -> value
        self._alive: list[Tensor] = []  # keeps ids unique while recording
        self._sharing: dict[int, dict[int, Tensor]] = {}  # storage -> tensors over it
        self.shapes: list[tuple[int, ...]] = []
        self.constants: dict[int, Tensor] = {}
        self.masks: set[int] = set()

    def find(self, tensor: Tensor) -> int | None:
        """The number of a tensor, if it has one."""
        return self._numbers.get(id(tensor))

    def number(self, tensor: Tensor, *, rebind: bool = False) -> int:
        """The number of a tensor, a new one if it has none.

        Args:
            tensor: the tensor.
            rebind: whether it is another value from now on.
        """
        if not rebind and id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        number = len(self.shapes)
        self.shapes.append(tuple(tensor.shape))
        if tensor.dtype in (torch.bool, torch.uint8):
            self.masks.add(number)
        self._note(tensor, number)
        return number

    def same(self, tensor: Tensor, twin: Tensor) -> Tensor:
        """Let `twin` stand for `tensor`."""
        self._note(twin, self._numbers[id(tensor)])
        return twin

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """The tensors over the same memory, itself among them."""
        return list(self._sharing.get(_storage(tensor), {}).values())

    def ref(self, value: Any) -> Any:
        """The reference that stands for a tensor; anything else as it is.

        Raises:
            NeedsData: a tensor made outside the recording has no values.
        """
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._numbers:  # a tensor the model keeps outside parameters and buffers
            if value.is_meta and value.numel():
                raise NeedsData("a constant made on the meta device has no values")
            self.constants[self.number(value)] = value
        return Ref(self._numbers[id(value)])

    def refs(self, tree: Any) -> Any:
        """Arguments with references in place of tensors."""
        return rebuilt(tree, self.ref)

    def _note(self, tensor: Tensor, number: int) -> None:
        self._numbers[id(tensor)] = number
        self._alive.append(tensor)
        self._sharing.setdefault(_storage(tensor), {})[id(tensor)] = tensor


def _storage(tensor: Tensor) -> int:
    return cast("Any", tensor.untyped_storage())._cdata  # data_ptr() is 0 on the meta device
