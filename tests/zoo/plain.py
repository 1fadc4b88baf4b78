"""Networks in one line: what follows what, with every pool, pad, view and dimension."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VGG(nn.Module):
    """Convolutions with biases and BatchNorm, then flatten: 16 columns of the first linear layer per channel."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in (1, 1, 0, 2, 2, 0, 4, 4, 0):
            if step == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width * step, 3, padding=1), nn.BatchNorm2d(width * step), nn.ReLU(True)]
                channels = width * step
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 16, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 24), nn.ReLU(True), nn.Dropout()
        )
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        return self.head(self.classifier(x))


class LiteralView(nn.Module):
    """LeNet with the flattened size written as a number in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 256)
        return self.fc2(F.relu(self.fc1(x)))


class WidthAttribute(nn.Module):
    """The flattened size is held in an attribute of the module."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.width = 2 * width
        self.fc = nn.Linear(2 * width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc(x.view(x.size(0), self.width * 16))


class Pools(nn.Module):
    """Pools, paddings and resamplings: none of them may stop a channel or bring one back to life."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        self.pad = nn.ZeroPad2d(1)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.avg = nn.AvgPool2d(2)
        self.reflect = nn.ReflectionPad2d((1, 1, 0, 0))
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.conv4 = nn.Conv2d(width, width, 3, padding="same")
        self.nearest = nn.Upsample(size=12)
        self.conv5 = nn.Conv2d(width, width, 2, dilation=2)
        self.lp = nn.MaxPool2d(3, 2, 1)
        self.adaptive = nn.AdaptiveMaxPool2d(2)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = self.avg(torch.relu(self.conv2(self.pad(x))))
        x = torch.relu(self.conv3(self.reflect(x)))
        x = torch.relu(self.conv4(self.up(x)))
        x = self.conv5(F.pad(self.nearest(x), (1, 1, 1, 1), mode="replicate"))
        x = self.adaptive(self.lp(F.pad(x, (0, 1, 0, 1), value=0.7)))
        return self.fc(x.flatten(1))


class Dropped(nn.Module):
    """Dropout of channels and of features."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        self.drop2d = nn.Dropout2d(0.2)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.fc1 = nn.Linear(width, 16)
        self.fc2 = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop2d(torch.relu(self.conv1(x)))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        x = F.dropout(torch.relu(self.fc1(x)), 0.3, self.training)
        return self.fc2(x)


class Line(nn.Module):
    """Convolution, norm, activation twice, in one, two or three dimensions."""

    def __init__(self, dims: int, width: int = 8) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
        self.body = nn.Sequential(
            conv(2, width, 3, padding=1),
            norm(width),
            nn.ReLU(),
            conv(width, 2 * width, 3, stride=2, bias=False),
            norm(2 * width),
            nn.LeakyReLU(0.1),
            conv(2 * width, width, 1),
            pool(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))
