"""Operations no rule can know: their operands must be kept whole, and the operation named."""

import torch
from torch import Tensor, nn


class Walled(nn.Module):
    """conv1 is free, conv2 ends at the wall, conv3 is free again."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def wall(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(torch.relu(self.conv1(x)))
        return self.fc(torch.relu(self.conv3(self.wall(x))).mean((2, 3)))


class SortWall(Walled):
    """Channels in the order of their values: which channel is which depends on the data."""

    def wall(self, x: Tensor) -> Tensor:
        return torch.sort(x, dim=1).values


class FourierWall(Walled):
    """A Fourier transform over the channels mixes them all, without a weight."""

    def wall(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=1, norm="ortho").real


class SoftmaxWall(Walled):
    """A softmax over the channels: each depends on all, and a zero is not nothing."""

    def wall(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=1)


class InverseWall(Walled):
    """The covariance of the channels is inverted."""

    def wall(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        eye = torch.eye(flat.shape[1], dtype=x.dtype)
        inverse = torch.linalg.inv(eye + flat @ flat.transpose(1, 2) / flat.shape[2])
        return (inverse @ flat).view_as(x)


class CumsumWall(Walled):
    """A running sum over the channels."""

    def wall(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, dim=1)


class Halved(torch.autograd.Function):
    """A function with a hand-written gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 0.5 * x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        return 0.5 * grad


class CustomFunction(Walled):
    """A custom autograd function: its forward is an ordinary product, so nothing has to be frozen."""

    def wall(self, x: Tensor) -> Tensor:
        return Halved.apply(x)


@torch.library.custom_op("fprune_zoo::rolled", mutates_args=())
def rolled(x: Tensor) -> Tensor:
    return torch.roll(x, 1, 1).clone()


@rolled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


rolled.register_autograd(lambda ctx, grad: torch.roll(grad, -1, 1))


class OpaqueWall(Walled):
    """An operator registered by the user: only its name and shapes are known."""

    def wall(self, x: Tensor) -> Tensor:
        return torch.ops.fprune_zoo.rolled(x)
