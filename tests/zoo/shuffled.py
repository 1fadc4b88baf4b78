"""Channels that move: shuffles, splits, grouped convolutions, depth to space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNetV1: grouped 1x1, shuffle, depthwise, grouped 1x1, sum (or cat with the pooled input)."""

    def __init__(self, cin: int, cout: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        middle = cout // 2
        grown = cout - cin if stride == 2 else cout
        self.conv1 = nn.Conv2d(cin, middle, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, grown, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(grown)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        if self.stride == 2:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), out], 1))
        return F.relu(x + out)


class ShuffleNetV1(nn.Module):
    def __init__(self, width: int = 16, groups: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.units = nn.Sequential(
            ShuffleUnit(width, 2 * width, groups, 2),
            ShuffleUnit(2 * width, 2 * width, groups, 1),
            ShuffleUnit(2 * width, 2 * width, groups, 1),
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(F.relu(self.bn(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class SplitUnit(nn.Module):
    """ShuffleNetV2: half of the channels passes by, the other half is computed, then both are shuffled."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.stride = stride
        self.branch1: nn.Module = nn.Identity()
        if stride == 2:
            self.branch1 = nn.Sequential(
                nn.Conv2d(cin, cin, 3, 2, 1, groups=cin, bias=False),
                nn.BatchNorm2d(cin),
                nn.Conv2d(cin, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(cin if stride == 2 else half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True))
        self.stage2 = nn.Sequential(
            SplitUnit(width, 2 * width, 2), SplitUnit(2 * width, 2 * width, 1), SplitUnit(2 * width, 2 * width, 1)
        )
        self.conv5 = nn.Sequential(nn.Conv2d(2 * width, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True))
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv5(self.stage2(self.conv1(x))).mean([2, 3]))


class ShuffleModule(nn.Module):
    """nn.ChannelShuffle between a grouped and an ordinary convolution."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, width, 3, padding=1, groups=2)
        self.shuffle = nn.ChannelShuffle(2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(torch.relu(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


class SuperResolution(nn.Module):
    """PixelShuffle takes four channels to one; an unshuffle goes back."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.up = nn.PixelShuffle(2)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.conv4 = nn.Conv2d(4 * width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv3(self.up(self.conv2(x))))
        return self.conv4(F.pixel_unshuffle(x, 2))


class GroupedTransposed(nn.Module):
    """A grouped transposed convolution between grouped and ordinary ones."""

    def __init__(self, width: int = 8, groups: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, 2 * width, 4, 2, 1, groups=groups)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, groups=groups)
        self.conv3 = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.conv1(x))))
        return self.conv3(torch.relu(self.conv2(x)))


class UnequalSplit(nn.Module):
    """One convolution feeds three branches of unequal width, one of which is not changed at all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(4, 8, 3, padding=1)
        self.b = nn.Conv2d(12, 6, 1)
        self.mix = nn.Conv2d(22, 12, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.relu(self.conv(x)).split([4, 12, 8], dim=1)
        x = torch.cat([self.b(b), c, self.a(a)], 1)
        return self.fc(torch.relu(self.mix(x)).mean((2, 3)))


class SquareShuffle(nn.Module):
    """As many groups as channels in each: rows and columns of the square look alike, yet cross in every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(F.avg_pool2d(shuffle(self.conv1(x), 4), 2))
        return self.fc(torch.relu(self.conv2(self.bn(x))).mean((2, 3)))


class NarrowBranch(nn.Module):
    """A branch of one channel: it cannot be pruned, and its mask must not empty it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.rest = nn.Conv2d(7, 4, 1)
        self.fc = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, rest = torch.tanh(self.conv(x)).split([1, 7], dim=1)
        x = torch.cat([one, self.one(one), self.rest(rest)], 1)
        return self.fc(x.amax((2, 3)))
