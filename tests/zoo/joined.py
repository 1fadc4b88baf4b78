"""Branches that meet: concatenation, skips between distant layers, several scales."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Bottleneck of DenseNet: norm, 1x1, norm, 3x3; its output is appended to what came before."""

    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    def __init__(self, growth: int = 4, depths: tuple[int, ...] = (3, 4, 3), classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for index, depth in enumerate(depths):
            self.blocks.append(nn.ModuleList(DenseLayer(channels + i * growth, growth) for i in range(depth)))
            channels += depth * growth
            if index + 1 < len(depths):
                half = nn.Conv2d(channels, channels // 2, 1, bias=False)
                self.transitions.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), half, nn.AvgPool2d(2)))
                channels //= 2
        self.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        for index, block in enumerate(self.blocks):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = torch.cat(features, 1)
            if index < len(self.transitions):
                x = self.transitions[index](x)
        x = F.relu(self.norm5(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def double(cin: int, cout: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for channels in (cin, cout):
        parts += [nn.Conv2d(channels, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """Two levels; the decoder comes up through transposed convolutions and meets the encoder in a cat."""

    def __init__(self, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.inc = double(3, width)
        self.down1 = double(width, 2 * width)
        self.down2 = double(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.conv1 = double(4 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1)
        self.conv2 = double(2 * width, width)
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(F.max_pool2d(x1, 2))
        x3 = self.down2(F.max_pool2d(x2, 2))
        x = self.conv1(torch.cat([x2, self.up1(x3)], 1))
        x = self.conv2(torch.cat([x1, self.up2(x)], 1))
        return self.outc(x)


class ConvBN(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int | tuple[int, int], **options: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, bias=False, **options)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(cout, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Four branches, one of them factorised into 1x7 and 7x1, one behind a pool."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        self.branch1 = ConvBN(cin, width, 1)
        self.branch2_1 = ConvBN(cin, width, 1)
        self.branch2_2 = ConvBN(width, 2 * width, 3, padding=1)
        self.branch3_1 = ConvBN(cin, width, 1)
        self.branch3_2 = ConvBN(width, width, (1, 7), padding=(0, 3))
        self.branch3_3 = ConvBN(width, width, (7, 1), padding=(3, 0))
        self.branch4 = ConvBN(cin, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        branches = [
            self.branch1(x),
            self.branch2_2(self.branch2_1(x)),
            self.branch3_3(self.branch3_2(self.branch3_1(x))),
            self.branch4(pooled),
        ]
        return torch.cat(branches, 1)


class Inception(nn.Module):
    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBN(3, width, 3, stride=2)
        self.block1 = InceptionBlock(width, width)
        self.block2 = InceptionBlock(5 * width, width)
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(5 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(self.stem(x))
        x = self.block2(F.max_pool2d(x, 3, 2))
        return self.fc(self.dropout(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)))


class FPN(nn.Module):
    """A feature pyramid: laterals are coupled through the top-down sums; two heads run on every level."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.c1 = ConvBN(3, width, 3, stride=2, padding=1)
        self.c2 = ConvBN(width, 2 * width, 3, stride=2, padding=1)
        self.c3 = ConvBN(2 * width, 4 * width, 3, stride=2, padding=1)
        self.laterals = nn.ModuleList(nn.Conv2d(width * 2**i, width, 1) for i in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.tower = nn.Conv2d(width, width, 3, padding=1)
        self.classes = nn.Conv2d(width, classes, 1)
        self.boxes = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        levels = [lateral(c) for lateral, c in zip(self.laterals, (c1, c2, c3), strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
        towers = [torch.relu(self.tower(s(level))) for s, level in zip(self.smooth, levels, strict=True)]
        classes = [self.classes(t).flatten(2) for t in towers]
        boxes = [self.boxes(t).flatten(2) for t in towers]
        return {"classes": torch.cat(classes, 2), "boxes": torch.cat(boxes, 2)}
