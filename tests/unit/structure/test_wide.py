"""Float64 without a float64 copy: the same numbers as the model converted, nothing of the model changed."""

import pytest
import torch
from torch import Tensor, nn

from fprune.structure.wide import NarrowWriteError, Wide


class Casting(nn.Module):
    """As language models do: a norm in float32 whatever the rest is, and the input's type again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 7)
        self.register_buffer("table", torch.rand(7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        zeros = torch.zeros(7, dtype=torch.float32)
        zeros += self.table.view(1, 7)[0].float()
        return self.b(y.type_as(x)) + zeros + self.b.weight.t().sum(0)


LAYERS = [
    Casting(),
    nn.Sequential(nn.Conv1d(5, 4, 1), nn.BatchNorm1d(4), nn.GELU(), nn.Conv1d(4, 2, 1)),
    nn.LSTM(5, 3, batch_first=True),
    nn.MultiheadAttention(5, 1, batch_first=True),
    nn.TransformerEncoderLayer(5, 1, 8, batch_first=True),
]


@pytest.mark.parametrize("net", LAYERS, ids=lambda net: type(net).__name__)
@torch.no_grad()
def test_the_same_as_the_model_in_float64(net: nn.Module) -> None:
    net = net.eval()
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    args = (x, x, x) if isinstance(net, nn.MultiheadAttention) else (x,)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode(), Wide():
        found = net(*args)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    if isinstance(net, Casting):
        net.forward = wide_by_hand(net)
    expected = net.double()(*(x.double() for x in args))
    net.float()
    pairs = zip(*[y if isinstance(y, tuple) else (y,) for y in (found, expected)], strict=True)
    for a, b in pairs:
        if isinstance(a, Tensor):
            assert a.dtype == torch.float64
            assert (a - b).abs().max() <= 1e-14 * b.abs().max()


def wide_by_hand(net: Casting):
    def forward(x: Tensor) -> Tensor:
        y = net.a(x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return net.b(y) + net.table + net.b.weight.t().sum(0)

    return forward


def test_what_it_leaves_alone() -> None:
    with torch.no_grad(), Wide():
        assert torch.arange(3).dtype == torch.int64
        assert torch.ones(2, dtype=torch.bool).dtype == torch.bool
        assert torch.ones(2, dtype=torch.complex64).dtype == torch.complex128
        assert torch.ones(2).to(torch.bfloat16).dtype == torch.float64


def test_a_write_to_a_tensor_of_the_model_is_refused() -> None:
    table = torch.zeros(3)
    with torch.inference_mode(), Wide(), pytest.raises(NarrowWriteError, match="add_"):
        table.view(3).add_(torch.ones(3))
    assert torch.equal(table, torch.zeros(3))
