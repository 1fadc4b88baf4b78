"""Record a model's forward pass, on the meta device when it can run there."""

import copy

import attrs
import torch
from torch import Tensor

from fprune.errors import FpruneError
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.arguments import listed
from fprune.structure.capture import NeedsData, Recording, tensors_mapped
from fprune.structure.graph import Graph, Node
from fprune.tree import Flat

_SIZED = frozenset(
    """view reshape _unsafe_view unflatten expand broadcast_to zeros ones full empty new_zeros new_ones new_full
    new_empty repeat arange""".split()
)


def record(model: Model, inputs: Inputs) -> Graph:
    """Record the evaluation-mode forward pass of a model.

    Args:
        model: any model; it is not changed.
        inputs: example inputs; their shapes matter, their values only for models that cannot run without data.

    Returns:
        The program, dead calls removed.

    Raises:
        ModelError: the forward pass fails on the inputs, or branches on values computed from them.
    """
    model = model.eval()
    graph = _recorded(model, inputs)
    if any(node.name in _SIZED for node in graph.nodes):
        return _batched(graph, model, inputs)
    return graph


def _recorded(model: Model, inputs: Inputs) -> Graph:
    try:
        return Recording().run(copy.deepcopy(model.skeleton), inputs, torch.device("meta"))
    except NeedsData:
        return Recording().run(model.to_module(), inputs, model.device)


def _batched(graph: Graph, model: Model, inputs: Inputs) -> Graph:
    """Find the sizes that grow with the batch, by recording once more with one more sample."""
    first = graph.shapes[graph.inputs[0]] if graph.inputs else ()
    if not first:
        return graph
    batch = first[0]

    def grown(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1]]) if x.ndim and x.shape[0] == batch else x

    args, kwargs = tensors_mapped(grown, (inputs.args, dict(inputs.kwargs)))
    try:
        more = _recorded(model, attrs.evolve(inputs, args=args, kwargs=Flat(kwargs)))
    except FpruneError:
        return graph  # the program is then good for this batch size only
    if [node.name for node in more.nodes] != [node.name for node in graph.nodes]:
        return graph
    nodes = tuple(attrs.evolve(a, batched=_growing(a, b)) for a, b in zip(graph.nodes, more.nodes, strict=True))
    return attrs.evolve(graph, nodes=nodes)


def _growing(node: Node, more: Node) -> dict[str, tuple[bool, ...]]:
    out: dict[str, tuple[bool, ...]] = {}
    for name, value in node.bound.items():
        sizes = listed(value)
        if sizes and all(type(n) is int for n in sizes):
            flags = tuple(a != b for a, b in zip(sizes, listed(more.bound[name]), strict=True))
            if any(flags):
                out[name] = flags
    return out
