"""Networks around operators that are not layers, and how many units of how many families each has."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from tests.zoo import recurrent
from tests.zoo.case import randomised


@attrs.frozen
class Operation:
    """A small network of which every family is pruned.

    Args:
        name: the test's id.
        build: makes the module; weights are redrawn by `net`.
        shape: the input's shape without the batch.
        families: the number of units of each family, counted by hand, smallest first.
        suffices: which part of a unit is enough for it to go.
        barriers: what each barrier that is reported says, as a regular expression.
        same_class: whether the compact module can be an instance of the same class.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    families: tuple[int, ...]
    barriers: tuple[str, ...] = ()
    suffices: tuple[str, ...] = ("rows", "columns")
    same_class: bool = True

    def net(self) -> nn.Module:
        """The module in eval mode, float64, with seeded weights and integer tables as they are."""
        return randomised(self.build(), seed=len(self.name)).double().eval()

    def input(self, batch: int = 2, seed: int = 0) -> Tensor:
        """A random input."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rnn(name: str, kind: type[nn.RNNBase], families: tuple[int, ...] = (8, 8), **options: Any) -> Operation:
    return Operation(name, lambda: recurrent.Recurrent(kind, **options), (4, 6), families)


RECURRENT = (
    rnn("lstm", nn.LSTM),
    rnn("gru", nn.GRU),
    rnn("rnn", nn.RNN),
    rnn("rnn_relu", nn.RNN, nonlinearity="relu"),
    rnn("lstm_layers", nn.LSTM, num_layers=3),
    rnn("lstm_bidirectional", nn.LSTM, num_layers=2, bidirectional=True),
    rnn("gru_bidirectional", nn.GRU, num_layers=2, bidirectional=True),
    rnn("gru_plain", nn.GRU, bias=False),
    rnn("lstm_projected", nn.LSTM, (4, 8, 8), num_layers=2, proj_size=4),
    rnn("lstm_projected_bidirectional", nn.LSTM, (4, 8, 8), num_layers=2, proj_size=4, bidirectional=True),
    Operation(
        "last_state", recurrent.LastState, (4, 6), (8,), ("lstm in rnn .* runs over these positions",), ("columns",)
    ),
    Operation("cells", recurrent.Stepped, (4, 6), (8, 8, 10), same_class=False),
)
OPERATIONS = RECURRENT
BY_NAME = {operation.name: operation for operation in OPERATIONS}
