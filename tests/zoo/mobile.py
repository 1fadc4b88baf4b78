"""Inverted residuals and depthwise convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze and excitation, project; the projection has no activation."""

    def __init__(
        self, cin: int, cout: int, stride: int, expand: int, act: type[nn.Module] = nn.ReLU6, se: bool = False
    ) -> None:
        super().__init__()
        hidden = cin * expand
        self.residual = stride == 1 and cin == cout
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(cin, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()]
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        layers += [depthwise, nn.BatchNorm2d(hidden), act()]
        if se:
            layers.append(ConvSE(hidden))
        layers += [nn.Conv2d(hidden, cout, 1, bias=False), nn.BatchNorm2d(cout)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class ConvSE(nn.Module):
    """Squeeze and excitation from 1x1 convolutions with a hard sigmoid."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return F.hardsigmoid(self.fc2(factor)) * x


class MobileNetV2(nn.Module):
    """All seventeen blocks at the published repetitions, narrow."""

    SETTINGS = ((1, 1, 1, 1), (6, 2, 2, 2), (6, 2, 3, 2), (6, 4, 4, 2), (6, 6, 3, 1), (6, 8, 3, 2), (6, 12, 1, 1))

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * width
        blocks: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6(True))
        ]
        for expand, factor, repeats, stride in self.SETTINGS:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, factor * width, stride if i == 0 else 1, expand))
                channels = factor * width
        last = 16 * width
        blocks.append(nn.Sequential(nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6(True)))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class MobileNetV3(nn.Module):
    """Hardswish, squeeze and excitation, and a linear layer with hardswish before the classifier."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.Hardswish(inplace=True),
            InvertedResidual(width, width, 1, 1, nn.ReLU, se=True),
            InvertedResidual(width, 2 * width, 2, 4, nn.ReLU),
            InvertedResidual(2 * width, 2 * width, 1, 4, nn.ReLU),
            InvertedResidual(2 * width, 3 * width, 2, 4, nn.Hardswish, se=True),
            InvertedResidual(3 * width, 3 * width, 1, 4, nn.Hardswish, se=True),
            nn.Conv2d(3 * width, 8 * width, 1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.Hardswish(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(8 * width, 4 * width), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        return self.head(self.classifier(x))


class DepthwiseSeparable(nn.Module):
    """MobileNetV1: depthwise (with bias, one with a channel multiplier of two) and pointwise."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.depthwise1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise1 = nn.Conv2d(width, 2 * width, 1)
        self.depthwise2 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1, groups=2 * width)
        self.pointwise2 = nn.Conv2d(4 * width, 2 * width, 1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.pointwise1(F.relu(self.depthwise1(x))))
        x = F.relu(self.pointwise2(F.relu(self.depthwise2(x))))
        return self.fc(x.mean([2, 3]))


class LinearBottleneck(nn.Module):
    """Two convolutions with nothing between them, then a residual sum without an activation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.reduce = nn.Conv2d(width, width // 2, 1)
        self.expand = nn.Conv2d(width // 2, width, 3)
        self.crop = nn.Conv2d(width, width, 3, bias=False)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.expand(self.reduce(x)) + self.crop(x)
        return self.fc(x.amax((2, 3)))
