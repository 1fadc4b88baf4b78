"""Record a model's forward pass, on the meta device when it can run there."""

import copy

import attrs
import torch
from torch import Tensor

from fprune.errors import FpruneError
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.arguments import listed
from fprune.structure.capture import Recording, tensors_mapped
from fprune.structure.expressions import Combined, Expression, Size
from fprune.structure.graph import Graph, Node
from fprune.structure.numbering import NeedsData
from fprune.tree import Flat


def record(model: Model, inputs: Inputs) -> Graph:
    """Record the evaluation-mode forward pass of a model.

    Args:
        model: any model; it is not changed.
        inputs: example inputs; their shapes matter, their values only for models that cannot run without data.

    Returns:
        The program, dead calls removed. If the model reads values computed from its inputs, `reads` says where.

    Raises:
        ModelError: the forward pass fails on the inputs.
    """
    model = model.eval()
    graph, hidden = _recorded(model, inputs)
    return _grown(graph, model, inputs) if hidden else graph


def _recorded(model: Model, inputs: Inputs) -> tuple[Graph, bool]:
    try:
        recording = Recording()
        graph = recording.run(copy.deepcopy(model.skeleton), model.skeleton, inputs, torch.device("meta"))
    except NeedsData:
        recording = Recording()
        graph = recording.run(model.to_module(), model.skeleton, inputs, model.device)
    return graph, recording.hidden


def _grown(graph: Graph, model: Model, inputs: Inputs) -> Graph:
    """Find the sizes that were computed out of sight from the batch, by recording once more with one more sample."""
    first = graph.shapes[graph.inputs[0]] if graph.inputs else ()
    if not first:
        return graph

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1]]) if x.ndim and x.shape[0] == first[0] else x

    args, kwargs = tensors_mapped(longer, (inputs.args, dict(inputs.kwargs)))
    try:
        more, _ = _recorded(model, attrs.evolve(inputs, args=args, kwargs=Flat(kwargs)))
    except FpruneError:
        return graph  # the program is then good for this batch size only
    if [node.name for node in more.nodes] != [node.name for node in graph.nodes]:
        return graph
    batch = Size(graph.inputs[0], 0)
    nodes = tuple(_with_batch(a, b, batch, first[0]) for a, b in zip(graph.nodes, more.nodes, strict=True))
    return attrs.evolve(graph, nodes=nodes)


def _with_batch(node: Node, more: Node, batch: Size, size: int) -> Node:
    sources = dict(node.sources)
    for name, value in node.bound.items():
        sizes, grown = listed(value), listed(more.bound[name])
        if isinstance(value, (list, tuple)) and len(sizes) == len(grown):
            known = sources.get(name, (None,) * len(sizes))
            found = tuple(e or _batched(a, b, batch, size) for e, a, b in zip(known, sizes, grown, strict=True))
            if any(found):
                sources[name] = found
    return attrs.evolve(node, sources=sources) if sources != dict(node.sources) else node


def _batched(n: object, more: object, batch: Size, size: int) -> Expression | None:
    if type(n) is not int or type(more) is not int or n * (size + 1) != more * size:
        return None
    return batch if n == size else Combined("*", batch, n // size)
