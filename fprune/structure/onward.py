"""From the output of a layer onward: the norms and pointwise operators up to the activation function."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from fprune.structure.graph import Graph, Node, substitute
from fprune.structure.operators import is_inplace, is_pointwise, placed

NORMS = frozenset(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"))
"""Operators that normalise a value and keep its shape."""
ACTIVATIONS = frozenset(
    """relu relu6 gelu silu mish hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus rrelu prelu threshold
    tanh sigmoid log_sigmoid softshrink hardshrink clamp clamp_min""".split()
)
"""Operators that networks use as activation functions."""


def onward(graph: Graph, value: int, until: Collection[str] = ACTIVATIONS) -> tuple[Node, ...]:
    """Return the calls that lead from a value to what the first of some operators makes of it.

    Only norms and pointwise operators lead on, and only while every use of the values in between is among them: what
    joins another value, such as an addition, ends the way. A function written out, such as `x * sigmoid(x)`, is
    followed to its end.

    Examples:
        >>> from torch import nn, ones
        >>> from fprune.structure import trace
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2))
        >>> graph = trace(net, ones(1, 2)).graph
        >>> [node.name for node in onward(graph, graph.nodes[0].out)]
        ['batch_norm', 'relu']

    Args:
        graph: the program.
        value: one of its values.
        until: names of operators, one of which the way has to hold.

    Returns:
        The calls, in order; empty when the way ends before.
    """
    inside, taken = {value}, list[Node]()
    uses = {value: _users(graph, value)}
    for node in graph.nodes:
        if inside.isdisjoint(node.inputs):
            continue
        if not _leads(graph, node, inside, graph.shapes[value]):
            return ()
        taken.append(node)
        inside.add(node.out)
        uses[node.out] = _users(graph, node.out)
        open_ = any(len(uses[i].difference(n.outs for n in taken)) for i in inside if i != node.out)
        returned = inside.intersection(graph.outputs) - {node.out}
        if not open_ and not returned and any(n.name in until for n in taken):
            return tuple(taken)
    return ()


def _users(graph: Graph, value: int) -> set[tuple[int, ...]]:
    return {node.outs for node in graph.nodes if value in node.inputs}


def _leads(graph: Graph, node: Node, inside: Collection[int], shape: tuple[int, ...]) -> bool:
    kind = node.name in NORMS or node.name in ACTIVATIONS or is_pointwise(node)
    owned = all(i in inside or i in graph.tensors or i in graph.constants for i in node.inputs)
    return kind and owned and node.single and graph.shapes[node.out] == shape and not graph.unsure(node)


def replayed(
    graph: Graph,
    calls: tuple[Node, ...],
    start: int,
    value: Tensor,
    tensors: Mapping[str, Tensor],
    *,
    training: bool = False,
) -> Tensor:
    """Make some calls of a program on a tensor, which is left as it is.

    Args:
        graph: the program.
        calls: what `onward` found for `start`.
        start: the value that the tensor stands for.
        value: the tensor; its batch need not have the size of the recorded one.
        tensors: parameters and buffers by name.
        training: norms take the statistics of the tensor, and leave the running ones alone.

    Returns:
        What the last call makes.
    """
    env: dict[int, Any] = {start: value}
    for node in calls:
        for index in node.inputs:
            if index not in env:
                name = graph.tensors.get(index)
                env[index] = graph.constants[index].to(value.device) if name is None else tensors[name]
        if training and "running_mean" in node.bound:
            batch = {**node.bound, "running_mean": None, "running_var": None, _mode(node): True}
            args, kwargs = (), substitute(batch, env.__getitem__)
        else:
            args, kwargs = (placed(substitute(a, env.__getitem__), value.device) for a in (node.args, node.kwargs))
            args = (args[0].clone(), *args[1:]) if is_inplace(node.op) else args
        env[node.out] = node.op(*args, **dict(kwargs))
    return env[calls[-1].out] if calls else value


def _mode(node: Node) -> str:
    return "training" if "training" in node.bound else "use_input_stats"
