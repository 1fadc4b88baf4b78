"""Recurrent layers: a hidden unit is a row of every gate, a column of the recurrent weight, an entry of the state."""

from typing import Any

from fprune.structure.arguments import listed
from fprune.structure.flow import Dims, Flow, rule
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import Ints, concatenated, frozen
from fprune.structure.recurrent import GATES, Cell, cells, sequence


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(flow: Flow, node: Node, hx: Any, **_: Any) -> list[Dims]:
    """All layers and directions start from one tensor of states, so they share their hidden units."""
    states: list[Ref] = listed(hx)
    dims = [flow.dims(ref) for ref in states]
    x = sequence(node.bound)
    steps = [*flow.dims(x)[:-1], *(rows for state in dims for rows in state[:2])]
    if "batch_sizes" in node.bound:
        steps += flow.dims(node.bound["batch_sizes"])
    flow.freeze(steps, node, "it runs over these positions")
    state, hidden = dims[0][-1], dims[-1][-1]
    features, source = flow.dims(x)[-1], x
    for layer in cells(node.bound):
        for cell in layer:
            _cell(flow, node, cell, hidden, state)
            _reads(flow, node, cell.w_ih, features, source, flow.dims(cell.w_ih)[0])
            _reads(flow, node, cell.w_hh, state, Ref(node.outs[1]), flow.dims(cell.w_hh)[0])
            if cell.w_hr is not None:
                _reads(flow, node, cell.w_hr, hidden, Ref(node.outs[2]), state)
        features, source = concatenated([flow.labels.resolve(state)] * len(layer)), Ref(node.outs[0])
    out = [[*(frozen(n) for n in flow.shape(node.outs[0])[:-1]), features]]
    ends = [state, hidden] if len(node.outs) == 3 else [state]
    return out + [[*(frozen(n) for n in flow.shape(i)[:-1]), rows] for i, rows in zip(node.outs[1:], ends, strict=True)]


@rule("lstm_cell")
def lstm_cell(flow: Flow, node: Node, input: Ref, hx: list[Ref], **tensors: Any) -> list[Dims]:
    """One step; torch asks for as many entries of the old state as there are hidden units."""
    (*batch, hidden), state = flow.dims(hx[1]), flow.dims(hx[0])
    out = [*flow.broadcast([batch, state[:-1], flow.dims(input)[:-1]], node), hidden]
    _step(flow, node, Cell(**tensors), input, hx[0], hidden)
    return [out, out]


@rule("gru_cell")
def gru_cell(flow: Flow, node: Node, input: Ref, hx: Ref, **tensors: Any) -> Dims:
    """One step, in which the old state is mixed into the new one."""
    state = flow.dims(hx)
    batch = flow.broadcast([state[:-1], flow.dims(input)[:-1]], node)
    _step(flow, node, Cell(**tensors), input, hx, state[-1])
    return [*batch, state[-1]]


@rule("rnn_tanh_cell", "rnn_relu_cell")
def rnn_cell(flow: Flow, node: Node, input: Ref, hx: Ref, **tensors: Any) -> Dims:
    """One step."""
    cell = Cell(**tensors)
    hidden = flow.dims(cell.w_ih)[0]
    batch = flow.broadcast([flow.dims(hx)[:-1], flow.dims(input)[:-1]], node)
    _step(flow, node, cell, input, hx, hidden)
    return [*batch, hidden]


def _step(flow: Flow, node: Node, cell: Cell[Ref], input: Ref, state: Ref, hidden: Ints) -> None:
    _cell(flow, node, cell, hidden, flow.dims(state)[-1])
    _reads(flow, node, cell.w_ih, flow.dims(input)[-1], input, flow.dims(cell.w_ih)[0])
    _reads(flow, node, cell.w_hh, flow.dims(state)[-1], state, flow.dims(cell.w_hh)[0])


def _cell(flow: Flow, node: Node, cell: Cell[Ref], hidden: Ints, state: Ints) -> None:
    """Rows are (gate, hidden unit); the gates stay."""
    gates = GATES[node.name.removesuffix("_cell")]
    for tensor in (cell.w_ih, cell.w_hh, *cell.biases):
        rows = flow.dims(tensor)[0]
        gate, unit = flow.labels.split(rows, [gates, len(rows) // gates])
        flow.labels.freeze(gate)
        flow.labels.unify(unit, hidden)
    flow.labels.unify(hidden if cell.w_hr is None else flow.dims(cell.w_hr)[0], state)


def _reads(flow: Flow, node: Node, weight: Ref, rows: Ints, value: Ref, out: Ints) -> None:
    """A weight reads a value along its last dimension."""
    flow.labels.unify(flow.dims(weight)[1], rows)
    flow.sink("recurrent", node, rows, value, -1, weight=weight.index, out=out)
