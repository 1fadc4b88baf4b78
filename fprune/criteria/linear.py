"""Where a forward pass applies weights by `F.linear`, seen and added to while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["Listening", "Tapping", "single_rows"]

Shape = tuple[int, ...]


class Listening(TorchFunctionMode):
    """Notes every use of some weights by a function of torch, and what comes out of it where that is `F.linear`.

    Args:
        weights: name -> the tensors that the model is called with, recognised by identity.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.names = {id(weight): name for name, weight in weights.items()}
        self.uses: dict[str, list[Tensor | None]] = {name: [] for name in weights}
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function and note the use."""
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves((args, kwargs)):
            if id(leaf) in self.names:
                plain = func is F.linear and weight_of(args, kwargs) is leaf
                self.uses[self.names[id(leaf)]].append(out if plain else None)
        return out


class Tapping(TorchFunctionMode):
    """Adds a tap to what `F.linear` gives for some weights, and keeps its inputs.

    The derivative with respect to a tap of zeros is the derivative with respect to the output.

    Args:
        weights: name -> the tensors that the model is called with, recognised by identity.
        taps: name -> what is added to the outputs.
    """

    def __init__(self, weights: Mapping[str, Tensor], taps: Mapping[str, Tensor]) -> None:
        self.names = {id(weights[name]): name for name in taps}
        self.taps = taps
        self.inputs: dict[str, Tensor] = {}
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and add the tap."""
        out = func(*args, **(kwargs or {}))
        name = self.names.get(id(weight_of(args, kwargs))) if func is F.linear else None
        if name is None:
            return out
        self.inputs[name] = args[0] if args else (kwargs or {})["input"]
        return out + self.taps[name]


def weight_of(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The weight among the arguments of `F.linear`."""
    return args[1] if len(args) > 1 else (kwargs or {}).get("weight")


def single_rows(weights: Mapping[str, Tensor], forward: Callable[[], object]) -> dict[str, Tensor]:
    """Return the weights whose gradient is one outer product: used once, by `F.linear`, on one row.

    Examples:
        >>> w, v = torch.ones(2, 3), torch.ones(4, 3)
        >>> def forward():
        ...     return F.linear(torch.ones(1, 3), w), F.linear(torch.ones(5, 3), v)
        >>> found = single_rows({"w": w, "v": v}, forward)
        >>> {name: tuple(tap.shape) for name, tap in found.items()}
        {'w': (1, 2)}

    Args:
        weights: name -> weight, as the model holds them.
        forward: runs the model on one sample.

    Returns:
        Name -> zeros of the shape and type of the output.
    """
    with Listening(weights) as heard:
        forward()
    found: dict[str, Tensor] = {}
    for name, uses in heard.uses.items():
        out = uses[0] if len(uses) == 1 else None
        if out is not None and out.numel() == weights[name].shape[0]:
            found[name] = torch.zeros_like(out.detach())
    return found
