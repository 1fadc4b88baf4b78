"""Residual networks, with torchvision's parameter names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(cin: int, cout: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, stride, 1, groups=groups, bias=False)


class SqueezeExcitation(nn.Module):
    """Two linear layers on the pooled channels give each channel a factor."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        factor = F.adaptive_avg_pool2d(x, 1).view(batch, channels)
        factor = torch.sigmoid(self.fc2(torch.relu(self.fc1(factor)))).view(batch, channels, 1, 1)
        return x * factor.expand_as(x)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, cin: int, width: int, stride: int, downsample: nn.Module | None, groups: int, se: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(cin, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width) if se else nn.Identity()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin: int, width: int, stride: int, downsample: nn.Module | None, groups: int, se: bool) -> None:
        super().__init__()
        inner = width * 2 if groups > 1 else width
        self.conv1 = nn.Conv2d(cin, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(4 * width) if se else nn.Identity()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """The ImageNet stem and four stages; `groups` > 1 makes it a ResNeXt, `se` adds squeeze and excitation."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        width: int = 64,
        classes: int = 1000,
        groups: int = 1,
        se: bool = False,
    ) -> None:
        super().__init__()
        self.channels = width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = [
            self._stage(block, width * 2**i, depth, 1 if i == 0 else 2, groups, se) for i, depth in enumerate(depths)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, classes)

    def _stage(self, block, width: int, depth: int, stride: int, groups: int, se: bool) -> nn.Sequential:
        blocks = []
        for index in range(depth):
            step = stride if index == 0 else 1
            down = None
            if step != 1 or self.channels != width * block.expansion:
                cout = width * block.expansion
                down = nn.Sequential(nn.Conv2d(self.channels, cout, 1, step, bias=False), nn.BatchNorm2d(cout))
            blocks.append(block(self.channels, width, step, down, groups, se))
            self.channels = width * block.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class CifarBlock(nn.Module):
    """With `padded`, the shortcut takes every second pixel and pads the missing channels with zeros (option A)."""

    def __init__(self, cin: int, width: int, stride: int, padded: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(cin, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.grow = 0
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and padded:
            self.grow = (width - cin) // 2
        elif stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow, self.grow))
        return F.relu(out + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR network: three stages of three blocks."""

    def __init__(self, width: int = 16, classes: int = 10, padded: bool = False) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        cin, stages = width, []
        for index in range(3):
            cout = width * 2**index
            strides = (1 if index == 0 else 2, 1, 1)
            stages.append(
                nn.Sequential(*(CifarBlock(cin if i == 0 else cout, cout, s, padded) for i, s in enumerate(strides)))
            )
            cin = cout
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size(3))
        return self.linear(x.view(x.size(0), -1))


class PreActivation(nn.Module):
    """BatchNorm and ReLU come before the convolution; the shortcut leaves after the first of them."""

    def __init__(self, cin: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = conv3x3(cin, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.shortcut = nn.Conv2d(cin, width, 1, stride, bias=False) if stride != 1 or cin != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(F.relu(self.bn2(out))) + shortcut


class PreActResNet(nn.Module):
    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.blocks = nn.Sequential(
            PreActivation(width, width),
            PreActivation(width, width),
            PreActivation(width, 2 * width, 2),
            PreActivation(2 * width, 2 * width),
        )
        self.bn = nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
