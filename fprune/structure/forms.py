"""The forms a smaller model can have: its own class with other sizes, or a graph of its calls."""

from collections.abc import Callable, Collection, Mapping

import attrs
from torch import Tensor

from fprune.model import Model
from fprune.structure.compact_graph import as_graph
from fprune.structure.compact_module import in_class
from fprune.structure.operation import Operation
from fprune.structure.solve import solve
from fprune.structure.trace import Structure


@attrs.frozen(eq=False)
class Form:
    """One form of the smaller model, and its program.

    Args:
        style: `"module"` or `"graph"`.
        model: the model.
        structure: its couplings.
        replaced: in style `"module"`, the modules whose `forward` is generated.
    """

    style: str
    model: Model
    structure: Structure
    replaced: tuple[str, ...] = ()


def _module(before: Model, operation: Operation, tensors: Mapping[str, Tensor], apart: Collection[str]) -> Form:
    new = operation.structure
    done = in_class(before, operation.cut.structure.graph, new.graph, tensors, {*new.replaced, *apart})
    graph = attrs.evolve(new.graph, attributes=done.attributes)
    return Form("module", done.model, attrs.evolve(new, graph=graph, replaced=done.replaced), done.replaced)


def _graph(before: Model, operation: Operation, tensors: Mapping[str, Tensor], apart: Collection[str]) -> Form:
    new = operation.structure
    solution = solve(operation.cut.structure.graph, new.graph, new.graph.nodes)
    graph = attrs.evolve(new.graph, attributes=solution.attributes)
    return Form("graph", as_graph(before, graph, tensors), attrs.evolve(new, graph=graph))


Shaping = Callable[[Model, Operation, Mapping[str, Tensor], Collection[str]], Form]
FORMS: Mapping[str, Shaping] = {"module": _module, "graph": _graph}
"""By style: makes the form of a model, from what is to be done to it and every tensor afterwards."""
