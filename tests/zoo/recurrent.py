"""Recurrent networks: what a hidden unit is, in every layout torch has."""

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 8, **options: object) -> None:
        super().__init__()
        self.inp = nn.Linear(6, width)
        self.rnn = kind(width, 8, batch_first=True, **options)
        state = self.rnn.proj_size or 8
        self.out = nn.Linear(state * (2 if self.rnn.bidirectional else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        made, _ = self.rnn(torch.relu(self.inp(x)))
        return self.out(made[:, -1])


class LastState(nn.Module):
    """The answer is read from the last states of all layers, which start from learned ones."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, width, num_layers=2)
        self.h0 = nn.Parameter(torch.zeros(2, 1, width))
        self.c0 = nn.Parameter(torch.zeros(2, 1, width))
        self.out = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        start = [state.expand(-1, x.shape[1], -1).contiguous() for state in (self.h0, self.c0)]
        _, (h, c) = self.rnn(x, tuple(start))
        return self.out(torch.cat([h.sum(0), c[-1]], 1))


class Stepped(nn.Module):
    """Cells, called once a step."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gru = nn.GRUCell(6, width)
        self.lstm = nn.LSTMCell(width, width + 2)
        self.rnn = nn.RNNCell(width + 2, width, nonlinearity="relu")
        self.out = nn.Linear(width, 5)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        a = x.new_zeros(x.shape[0], self.width)
        b, c, d = (
            x.new_zeros(x.shape[0], self.width + 2),
            x.new_zeros(x.shape[0], self.width + 2),
            x.new_zeros(x.shape[0], self.width),
        )
        for step in x.unbind(1):
            a = self.gru(step, a)
            b, c = self.lstm(a, (b, c))
            d = self.rnn(b, d)
        return self.out(d)
