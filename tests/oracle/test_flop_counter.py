"""FLOPs against torch's own counter, which runs the model."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fprune import count
from tests.zoo.case import answer
from tests.zoo.models import CASES


def counted_by_torch(net: nn.Module, inputs: object) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        answer(net, inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flops_are_those_of_torch(case) -> None:
    net, inputs = case.net(), case.inputs()
    assert count(net, inputs).flops == counted_by_torch(net, inputs)


def test_recurrent_attention_and_einsum() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, 2, bidirectional=True)
            self.gru = nn.GRU(10, 6)
            self.attention = nn.MultiheadAttention(6, 2)
            self.pair = nn.Bilinear(6, 6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.gru(self.lstm(x)[0])[0]
            y = self.attention(x, x, x)[0]
            return torch.einsum("tbc,tbd,tbe->cde", self.pair(x, y), x, y)

    # in float64, since the counter cannot see into the fused recurrent layers of float32
    net, x = Mixed().double().eval(), torch.randn(7, 2, 4).double()
    assert count(net, x).flops == counted_by_torch(net, (x,))
