"""The modules of generated networks that torch has no class for, and the expressions that build networks."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from fprune.isolation import isolated

_VARIANCES = (0.0, 3.0, 15.0)
"""With `eps=1` the square roots that a norm divides by are 1, 2 and 4."""


class Mean(nn.Module):
    """The mean over an image of 16 or 4 pixels, which stays exact.

    Examples:
        >>> Mean()(torch.ones(1, 2, 4, 4)).tolist()
        [[1.0, 1.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` to `(n, c)`."""
        return x.mean((2, 3))


class Residual(nn.Module):
    """Two convolutions beside a shortcut; a strided convolution where the size changes.

    Examples:
        >>> Residual(3, 5, 2)(torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 5, 2, 2])

    Args:
        channels: of the input.
        out: of the output.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, eps=1.0)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(out, eps=1.0)
        self.downsample = nn.Conv2d(channels, out, 1, stride) if stride > 1 or channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, h, w)` to `(n, out, h / stride, w / stride)`."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Tied(nn.Module):
    """One linear layer under two names, applied twice.

    Examples:
        >>> from fprune import Model
        >>> Model.from_module(Tied(3)).ties
        Flat(second.bias='first.bias', second.weight='first.weight')

    Args:
        width: of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width)` to `(n, width)`."""
        return torch.relu(self.second(torch.relu(self.first(x))))


@final
@attrs.frozen(repr=False)
class Part:
    """A call that builds a module, as a value; `repr` is the call.

    Examples:
        >>> Part(nn.Sequential, (Part(nn.Linear, (3, 2)), Part(nn.BatchNorm1d, (2,), {"eps": 1.0})))
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, eps=1.0))

    Args:
        fn: a class of modules.
        args: its arguments; parts among them are built first.
        kwargs: its keyword arguments.
    """

    fn: Callable[..., nn.Module]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def build(self) -> nn.Module:
        """Make the module; the values of its tensors are torch's."""
        args = (arg.build() if isinstance(arg, Part) else arg for arg in self.args)
        return self.fn(*args, **self.kwargs)

    def __repr__(self) -> str:
        name = f"nn.{self.fn.__name__}" if hasattr(nn, self.fn.__name__) else self.fn.__name__
        return f"{name}({', '.join([*map(repr, self.args), *(f'{k}={v!r}' for k, v in self.kwargs.items())])})"


def integers(*shape: int, seed: int = 0, spread: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw small integers stored as floats, so that sums and products of them are exact.

    Examples:
        >>> integers(2, 3, spread=1)
        tensor([[ 1., -1.,  1.],
                [-1.,  0., -1.]], dtype=torch.float64)

    Args:
        shape: of the tensor.
        seed: of the draw; the global generator is left alone.
        spread: the largest of them; they lie in `[-spread, spread]`.
        dtype: of the tensor.

    Returns:
        The tensor.
    """
    found = torch.randint(-spread, spread + 1, shape, generator=torch.Generator().manual_seed(seed))
    return found.to(dtype)


def distinct(
    shapes: Mapping[str, Sequence[int]], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Draw weights without ties, in no order.

    Examples:
        >>> distinct({"w": (2, 2)}, seed=1)["w"].unique().numel()
        4

    Args:
        shapes: name -> shape.
        seed: of the draw; the global generator is left alone.
        dtype: of the tensors.

    Returns:
        Name -> tensor of normally distributed values.
    """
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tuple(shape), generator=draw, dtype=dtype) for name, shape in shapes.items()}


def filled(net: nn.Module | Part, *, seed: int = 0, spread: int = 3, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Copy a network, with integer weights, and statistics of norms that keep what it computes exact.

    Variances are 0, 3 or 15, so that a norm with `eps=1` divides by 1, 2 or 4.

    Examples:
        >>> filled(nn.Linear(2, 2), seed=3).weight.tolist()
        [[2.0, 0.0], [0.0, 1.0]]

    Args:
        net: the network, or the expression that builds it; never changed.
        seed: of the draws.
        spread: the largest weight.
        dtype: of the copy.

    Returns:
        A module in eval mode.
    """
    with isolated():
        made = net.build() if isinstance(net, Part) else deepcopy(net)
    made = made.to(dtype).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randint(-spread, spread + 1, value.shape, generator=draw))
        for name, value in made.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randint(-2, 3, value.shape, generator=draw))
            if name.endswith("running_var"):
                value.copy_(torch.tensor(_VARIANCES)[torch.randint(0, 3, value.shape, generator=draw)])
    return made
