"""Networks that look up, write in place, gather positions, and compute their weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativePosition(nn.Module):
    """Attention over 3 x 3 tokens with a table of relative positions for each head, as in Swin."""

    def __init__(self, heads: int = 2, head_dim: int = 4) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(6, 3 * heads * head_dim)
        self.table = nn.Parameter(torch.zeros(25, heads))
        at = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + 2
        self.register_buffer("index", (5 * apart[0] + apart[1]).flatten())
        self.inner = nn.Linear(heads * head_dim, 6)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 9, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(9, 9, -1).permute(2, 0, 1)
        scores = (q @ k.mT / self.head_dim**0.5 + bias).softmax(-1)
        return self.out(F.relu(self.inner((scores @ v).transpose(1, 2).flatten(2)))).mean(1)


class Written(nn.Module):
    """Two branches written into parts of one tensor, and a part of it changed once more."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(6, width)
        self.gate = nn.Linear(6, 4)
        self.out = nn.Linear(width + 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = x.new_zeros(x.shape[0], 2, 8)
        both[:, 0] = F.relu(self.a(x))
        both[:, 1] = F.relu(self.b(x))
        both[:, 1].mul_(2)
        return self.out(torch.cat([both.prod(1) + both[:, 0], self.gate(x).relu_()], 1))


class Scattered(nn.Module):
    """Tokens gathered, summed into fewer and put back in another order."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inp = nn.Linear(6, width)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inp(x))
        x = x[:, torch.tensor([4, 0, 1, 3, 2])].index_select(1, torch.tensor([0, 1, 2, 4]))
        sums = torch.zeros_like(x[:, :2]).index_add(1, torch.tensor([0, 1, 0, 1]), x)
        sums = sums.index_put((torch.tensor([0, 1]), torch.tensor([1, 0])), sums[0, 0])
        return self.out(sums.gather(1, torch.tensor([1, 0]).view(1, 2, 1).expand(sums.shape))).flatten(1)


class Folded(nn.Module):
    """Windows taken out and laid down again."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inp = nn.Conv2d(3, width, 1)
        self.mid = nn.Linear(9 * width, 6)
        self.back = nn.Linear(6, 4 * 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inp(x))
        x = F.relu(self.mid(F.unfold(F.fold(F.unfold(x, 2), (8, 8), 2), 3, stride=2).mT))
        return F.fold(self.back(x).mT, (6, 6), 2, stride=2)


class Sampled(nn.Module):
    """Resampled on a fixed grid, pooled and unpooled."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 6, 1), nn.Conv2d(6, 5, 1)
        theta = torch.tensor([[[0.9, 0.1, 0.0], [-0.2, 0.8, 0.1]]])
        self.register_buffer("grid", F.affine_grid(theta, [1, 1, 6, 6], align_corners=False))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.grid_sample(x, self.grid.expand(len(x), -1, -1, -1), align_corners=False)
        x, at = F.max_pool2d(x, 2, return_indices=True)
        x = F.relu(self.b(F.max_unpool2d(x, at, 2)))
        return self.out(F.interpolate(F.lp_pool2d(x + 1, 2.0, 2), (5, 5), mode="bicubic"))


class BlockNorm(nn.Module):
    """Layer norm over channels and positions together."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inp = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.LayerNorm((width, 8, 8))
        self.out = nn.Conv2d(width, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.inp(x))))


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters are brought to mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Standardised(nn.Module):
    """Convolutions with standardised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = StandardisedConv(3, 8, 3), StandardisedConv(8, 6, 3), StandardisedConv(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))


def normed(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A convolution whose weight is computed, between two that are not."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), wrap(nn.Conv1d(8, 6, 3)), nn.ReLU(), nn.Conv1d(6, 4, 1), nn.Flatten()
    )
