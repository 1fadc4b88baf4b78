"""Normalisations: functional, without affine, over groups, over a pruned width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FunctionalNorm(nn.Module):
    """F.batch_norm on buffers and parameters registered on the parent."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta, self.training)
        return self.fc(torch.relu(self.conv2(torch.relu(x))).mean((2, 3)))


class PlainNorm(nn.Module):
    """BatchNorm without affine: a masked filter leaves a constant that no mask can reach."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, affine=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width, affine=False)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class GroupNormed(nn.Module):
    """GroupNorm over four groups, over one group and over as many groups as channels."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.norm3 = nn.GroupNorm(width, width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.fc(torch.relu(self.norm3(self.conv3(x))).amax((2, 3)))


class LayerNormMLP(nn.Module):
    """Norms over the pruned width, inside a residual stream and after an activation."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.inner = nn.ModuleList(nn.LayerNorm(2 * width, elementwise_affine=False) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for norm, up, inner, down in zip(self.norms, self.up, self.inner, self.down, strict=True):
            x = x + down(inner(F.gelu(up(norm(x)))))
        return self.out(self.last(x))


class InstanceNormed(nn.Module):
    """InstanceNorm per channel, with and without affine."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(width, affine=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(torch.relu(self.norm2(self.conv2(x))).amax((2, 3)))
