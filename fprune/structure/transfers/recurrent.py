"""Which hidden units of recurrent layers are 0 whatever the input.

New content is made by one gate and scaled by the others. A unit that starts at 0 and is never given content stays 0:

    LSTM  c' = f c + i tanh(g),  h' = o tanh(c')      GRU  h' = (1 - z) n + z h      RNN  h' = act(a)

where g, n and a read the input, the state and the biases. By induction over the steps the units of a set are all 0 when
none of them reads anything outside the set, so the greatest such set is sought.
"""

import torch
from torch import Tensor

from fprune.structure.arguments import listed
from fprune.structure.graph import Node, Shape
from fprune.structure.known import Known
from fprune.structure.recurrent import CANDIDATE, GATES, Cell, cells, sequence
from fprune.structure.transfers.registry import Bound, transfer


@transfer("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> list[Known] | None:
    """Per layer and direction, the greatest set of units that stay 0."""
    states: list[Known] = listed(bound["hx"])
    if any(k.tainted for k in bound["params"]):
        return None
    starts = [_rest(k) for k in (states[0], states[-1])]
    features = sequence(bound).along(-1).zero
    at_rest: list[list[Tensor]] = [[], []]  # of the state, of the hidden units
    per_layer: list[Tensor] = []
    for layer in cells(bound):
        for cell in layer:
            start = [s[len(at_rest[0])] for s in starts]
            for rests, rest in zip(at_rest, _settled(node.name, cell, features, *start), strict=True):
                rests.append(rest)
        features = torch.cat(at_rest[0][-len(layer) :])
        per_layer.append(features)
    everywhere = torch.stack(per_layer).all(0)  # also what the layers in between hand on
    like = bound["params"][0].value
    made = [everywhere.view(1, 1, -1), *(torch.stack(rests)[:, None] for rests in at_rest)]
    return [_zero(rest.reshape(*rest.shape[-len(s) :]), like, s) for rest, s in zip(made, shapes, strict=False)]


@transfer("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def step(node: Node, bound: Bound, shapes: tuple[Shape, ...]) -> Known | list[Known] | None:
    """One step from a given state."""
    cell: Cell[Known] = Cell(*(bound[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")))
    if any(k.tainted for k in (cell.w_ih, cell.w_hh, *cell.biases)):
        return None
    states: list[Known] = listed(bound["hx"])
    kind, state = node.name.removesuffix("_cell"), states[0].along(-1).zero
    rest = ~_given(kind, cell, bound["input"].along(-1).zero, state)
    if kind in ("lstm", "gru"):
        rest = rest & states[-1].along(-1).zero
    out = [_zero(rest.view([1] * (len(s) - 1) + [-1]), cell.w_ih.value, s) for s in shapes]
    return out[0] if node.single else out


def _rest(state: Known) -> list[Tensor]:
    """Per layer and direction, which entries of the first state are 0."""
    active = (state.taint | (state.value != 0)).expand(state.shape)
    return list(~active.any(1))


def _settled(kind: str, cell: Cell[Known], features: Tensor, state: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of the state and the hidden units that stay 0, among those that start there."""
    while True:
        held = state & (hidden if cell.w_hr is None else ~_reads(cell.w_hr, slice(None), hidden))
        settled = hidden & ~_given(kind, cell, features, held)
        if torch.equal(settled, hidden):
            return held, hidden
        hidden = settled


def _given(kind: str, cell: Cell[Known], features: Tensor, state: Tensor) -> Tensor:
    """Which hidden units are given content, when these features and these entries of the state are 0."""
    hidden = cell.w_ih.shape[0] // GATES[kind]
    rows = slice(CANDIDATE[kind] * hidden, (CANDIDATE[kind] + 1) * hidden)
    biases = [b.value.expand(b.shape)[rows] for b in cell.biases]
    if kind != "gru" and biases:  # in a GRU a gate stands between the two
        biases = [sum(biases[1:], biases[0])]
    biased = [b != 0 for b in biases]
    return torch.stack([_reads(cell.w_ih, rows, features), _reads(cell.w_hh, rows, state), *biased]).any(0)


def _reads(weight: Known, rows: slice, zero: Tensor) -> Tensor:
    """Which rows of a weight reach something that is not 0."""
    return (weight.value.expand(weight.shape)[rows][:, ~zero] != 0).any(1)


def _zero(rest: Tensor, like: Tensor, shape: Shape) -> Known:
    return Known(~rest, like.new_zeros([1] * len(shape)), shape)
