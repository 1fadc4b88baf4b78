"""Small float64 networks with a loss and batches, of every kind that derivatives have to go through."""

import copy
from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprune.model import Model


class Branches(nn.Module):
    """Convolutions with a norm, an activation that works in place, dropout, and a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, image: Tensor, *, scale: float = 1.0) -> Tensor:
        x = F.softplus(self.norm(self.conv(image)))
        x = F.elu_(self.deep(self.drop(x)) + x)
        return scale * self.head(self.up(x).mean((2, 3)))


class Tied(nn.Module):
    """An embedding that is the output layer too, a linear layer over a sequence, attention; a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.embed(ids)
        x = x + F.scaled_dot_product_attention(self.mix(x), x, x)
        logits = self.head(torch.tanh(self.last(x.mean(1))))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Recurrent(nn.Module):
    """A network that `vmap` cannot go through."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@attrs.frozen(eq=False)
class Case:
    """A module, its loss, its batches, and the names of the weights that are looked at."""

    net: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batches: list[Any]
    example: Any

    @property
    def model(self) -> Model:
        return Model.from_module(self.net)

    def reference(self, training: bool = False) -> nn.Module:
        """A copy to differentiate with plain autograd: every parameter has a gradient, whatever the flags."""
        return copy.deepcopy(self.net).train(training).requires_grad_(True)


def _classes(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _squares(model: Any, batch: Any) -> Tensor:
    return (model(batch["x"]) - batch["y"]).square().mean()


def _scaled(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["image"], scale=0.5), batch["label"])


def _hugging(model: Any, batch: Any) -> Tensor:
    return model(**batch)["loss"]


def cases() -> dict[str, Case]:
    """Fresh networks, the same every time."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def choice(most: int, *shape: int) -> Tensor:
        return torch.randint(0, most, shape, generator=draw)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        plain = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        frozen = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)).double().requires_grad_(False)
        branches, tied, recurrent = Branches().double(), Tied().double(), Recurrent().double()
    with torch.no_grad():
        branches.norm.running_mean.add_(0.3)
        branches.norm.running_var.mul_(2.0)
    images = [{"image": normal(n, 1, 4, 4), "label": choice(3, n)} for n in (3, 2)]
    texts = [{"ids": choice(7, n, 5), "labels": choice(7, n)} for n in (3, 2)]
    return {
        "plain": Case(plain, _classes, [(normal(n, 5), choice(3, n)) for n in (4, 3)], normal(1, 5)),
        "frozen": Case(frozen, _squares, [{"x": normal(n, 3), "y": normal(n, 2)} for n in (4, 3)], normal(1, 3)),
        "branches": Case(branches, _scaled, images, normal(1, 1, 4, 4)),
        "tied": Case(tied, _hugging, texts, None),
        "recurrent": Case(recurrent, _classes, [(normal(n, 4, 2), choice(2, n)) for n in (3, 2)], normal(1, 4, 2)),
    }
