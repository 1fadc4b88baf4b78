"""Small networks with one peculiarity each: sharing, ties, activations, norms, gates, inputs and outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedConv(nn.Module):
    """One convolution called three times: its rows and its columns are the same channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for _ in range(3):
            x = torch.relu(self.conv(x))
        return self.fc(x.mean((2, 3)))


class SharedTower(nn.Module):
    """One convolution called on two inputs of different size."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.tower = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        both = [torch.relu(self.tower(y)).mean((2, 3)) for y in (x, F.avg_pool2d(x, 2))]
        return self.fc(torch.cat(both, 1))


class TiedLinear(nn.Module):
    """Two linear layers hold one weight and two biases."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.a = nn.Linear(width, width)
        self.b = nn.Linear(width, width)
        self.b.weight = self.a.weight
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inp(x))
        return self.out(torch.relu(self.b(torch.tanh(self.a(x)))))


class TiedAutoencoder(nn.Module):
    """The decoder is the transpose of the encoder; the code is pruned, the input is not."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(10, width)
        self.beta = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.beta)


class HandSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.5 * x)


class HandPReLU(nn.Module):
    """One slope per channel, held in a parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope.view(1, -1, 1, 1) * x)


class Activations(nn.Module):
    """Activations written by hand, one of them with a parameter, and nn.PReLU beside them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.swish = HandSwish()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.hand = HandPReLU(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.prelu = nn.PReLU(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hand(self.bn(self.conv2(self.swish(self.conv1(x)))))
        return self.fc(self.prelu(self.conv3(x)).mean((2, 3)))


class RawScale(nn.Module):
    """Parameters used by name in forward: a factor and a shift per channel, and a layer scale on a branch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.factor = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width))
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(width))
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x) * self.factor + self.bias[:, None, None])
        x = x + self.gamma.reshape(-1, 1, 1) * self.conv2(x)
        return self.fc(x.mean((2, 3)))


class Gated(nn.Module):
    """A product of two convolutions: both operands carry channels; then a gate that is one channel wide."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.value = nn.Conv2d(3, width, 3, padding=1)
        self.gate = nn.Conv2d(3, width, 3, padding=1)
        self.spatial = nn.Conv2d(width, 1, 1)
        self.glu = nn.Conv2d(width, 2 * width, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
        x = x * torch.sigmoid(self.spatial(x))
        return self.fc(F.glu(self.glu(x), 1).mean((2, 3)))


class InPlace(nn.Module):
    """Functional in-place operations, on values that others read as well."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        y = self.conv2(x)
        y += x
        y.mul_(0.5).relu_()
        z = self.conv3(y).add_(y).sub_(0.1 * x)
        return self.fc(F.relu(z, inplace=True).mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and a vector; the vector's features multiply the image's channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.embed = nn.Linear(6, width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        x = torch.relu(self.conv1(image))
        film = self.embed(vector)[:, :, None, None]
        x = torch.cat([x * film, x + film], dim=1)
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


class TwoOutputs(nn.Module):
    """A tuple: a mask from the first features, classes from the last."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.mask = nn.Conv2d(width, 1, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.conv1(x))
        return self.mask(x), self.fc(torch.relu(self.conv2(x)).amax((2, 3)))
