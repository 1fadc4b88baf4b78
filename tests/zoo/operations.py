"""Networks around operators that are not layers, and how many units of how many families each has."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.zoo import attention, indexed, recurrent
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
        same_class: whether the compact module is an instance of the same class, whatever the sparsity.
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


def attends(name: str, build: Callable[[], nn.Module], *families: int, **rest: Any) -> Operation:
    return Operation(name, build, (5, 6), families, **{"suffices": ("rows",), **rest})


UNBOUND, SELECTED = ("unbind .* takes the dimension apart",), ("select .* picks one index of a dimension",)
ATTENTION = (
    attends("attention", attention.Attention, 3, 4, 5, 12),
    attends("attention_whole", attention.Whole, 3, 4, 5, 12, same_class=False),
    attends("attention_fused", attention.Fused, 3, 4, 12, 20, barriers=UNBOUND, same_class=False),
    attends(
        "attention_interleaved",
        lambda: attention.Grouped(attention.interleaved),
        2,
        3,
        4,
        5,
        12,
        suffices=(),
        same_class=False,
    ),
    attends(
        "attention_expanded",
        lambda: attention.Grouped(attention.expanded),
        2,
        3,
        4,
        5,
        12,
        suffices=(),
        same_class=False,
    ),
    attends("attention_grouped", attention.Grouped, 2, 3, 4, 5, 12, suffices=(), same_class=False),
    attends("attention_rotary", attention.Rotary, 2, 3, 3, 12, same_class=False),
    attends(
        "attention_biased",
        attention.Biased,
        3,
        4,
        5,
        12,
        barriers=("attention runs over these positions",),
        same_class=False,
    ),
    attends("attention_cross", attention.Cross, 3, 4, 5, 7, 12, same_class=False),
    attends("attention_lettered", attention.Lettered, 3, 4, 5, 12, suffices=()),
    attends("attention_kernel", attention.Kernel, 3, 4, 5, 12),
    attends("attention_torch", attention.Torch, 3, 4, 12, barriers=SELECTED),
    attends("encoder_pre", lambda: attention.Encoder(True), 3, 3, 4, 4, 12, 20, 20, barriers=SELECTED),
    attends("encoder_post", lambda: attention.Encoder(False), 3, 3, 4, 4, 12, 20, 20, barriers=SELECTED),
    attends("addmm", attention.Added, 10, 12, 20),
    attends("decomposed_norms", attention.Decomposed, 12, same_class=False),
)
INDEXED = (
    Operation(
        "relative_position",
        indexed.RelativePosition,
        (9, 6),
        (2, 4, 6),
        ("takes the dimension apart", "index .* it is indexed", "whose size is fixed"),
        ("rows",),
        same_class=False,
    ),
    Operation("written", indexed.Written, (6,), (4, 8), suffices=("columns",), same_class=False),
    Operation("scattered", indexed.Scattered, (5, 6), (8,), suffices=("columns",)),
    Operation("folded", indexed.Folded, (3, 8, 8), (6, 8), ("col2im .* gathers these positions",)),
    Operation("sampled", indexed.Sampled, (3, 8, 8), (6, 8), ("grid_sampler .* gathers these positions",)),
    Operation("block_norm", indexed.BlockNorm, (3, 8, 8), (8,), suffices=()),
)
COMPUTED = (
    Operation("standardised", indexed.Standardised, (3, 8, 8), (6, 8), suffices=()),
    Operation(
        "weight_norm",
        lambda: indexed.normed(parametrizations.weight_norm),
        (3, 9),
        (8,),
        ("no norm to divide by",),
        ("columns",),
    ),
    Operation(
        "weight_norm_by_place",
        lambda: indexed.normed(lambda layer: parametrizations.weight_norm(layer, dim=2)),
        (3, 9),
        (6, 8),
        ("no norm to divide by",),
        (),
    ),
    Operation("spectral_norm", lambda: indexed.normed(parametrizations.spectral_norm), (3, 9), (6, 8), suffices=()),
)
OPERATIONS = RECURRENT + INDEXED + COMPUTED + ATTENTION
BY_NAME = {operation.name: operation for operation in OPERATIONS}
