"""A compaction before any model is built: what goes, which constants move where, and the program after it."""

from collections.abc import Iterable, Mapping

import attrs
from torch import Tensor

from fprune.masks import Masks
from fprune.model import Model
from fprune.structure.constants import known
from fprune.structure.decide import decide, folds
from fprune.structure.program import compacted
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure
from fprune.structure.transfers.contraction import bias_name


@attrs.frozen(eq=False)
class Operation:
    """What is to be done.

    Args:
        cut: which indices of every value stay.
        deltas: sink number -> what removed channels contributed to its output channels.
        biases: sink number -> name of the bias that takes them up, and the value that holds it, if there is one.
        structure: the program and the couplings afterwards.
    """

    cut: Cut
    deltas: Mapping[int, Tensor]
    biases: Mapping[int, tuple[str, int | None]]
    structure: Structure


def planned(masked: Model, masks: Masks, structure: Structure) -> Operation:
    """Decide what goes, from the weights alone.

    Args:
        masked: the model, masks applied.
        masks: which of its entries are pruned.
        structure: its couplings.
    """
    tensors = masked.params.merged(masked.buffers)
    values = known(structure.graph, tensors)
    decision = decide(structure, masks, values, {name: tuple(t.shape) for name, t in tensors.items()})
    cut = Cut(structure, decision)
    deltas = folds(structure, decision, values)
    biases = {number: _holder(structure, number, tensors) for number in deltas}
    after = compacted(cut, biases) if decision.removed.any() else structure
    return Operation(cut, deltas, biases, after)


def _holder(structure: Structure, number: int, names: Iterable[str]) -> tuple[str, int | None]:
    """Where the constants of a layer go: its own bias if no other call uses it, else a bias made for this call."""
    graph, sink = structure.graph, structure.sinks[number]
    uses = [index for node in graph.nodes for index in node.inputs]
    bias = sink.node.bound.get(bias_name(sink.node))
    weight = graph.tensors.get(sink.weight or -1, f"{sink.node.module}.weight")
    holder = None if bias is None else bias.index
    if holder is not None and uses.count(holder) == 1 and holder in graph.tensors:
        return graph.tensors[holder], holder
    alone = sink.weight is not None and uses.count(sink.weight) == 1
    name = f"{weight.rpartition('.')[0]}.bias".lstrip(".")
    if holder is None and alone and name not in names:
        return name, None
    return f"{weight.replace('.', '_')}_fold_{number}", holder
