"""A compaction before any model is built: what goes, which constants move where, and the program after it."""

from collections.abc import Iterable, Mapping

import attrs
import torch
from torch import Tensor

from fprune.masks import Masks
from fprune.model import Model
from fprune.structure.constants import known
from fprune.structure.decide import decide, folds
from fprune.structure.program import compacted
from fprune.structure.rewrite import Cut
from fprune.structure.stand_in import StandIn, stand_ins
from fprune.structure.trace import Structure
from fprune.structure.transfers.contraction import bias_name


@attrs.frozen(eq=False)
class Operation:
    """What is to be done.

    Args:
        cut: which indices of every value stay.
        deltas: sink number -> what removed channels contributed to its output channels.
        biases: sink number -> name of the bias that takes them up, and the value that holds it, if there is one.
        stand_ins: sink number -> which channels of a padded convolution take up the constants of others.
        structure: the program and the couplings afterwards.
    """

    cut: Cut
    deltas: Mapping[int, Tensor]
    biases: Mapping[int, tuple[str, int | None]]
    stand_ins: Mapping[int, StandIn]
    structure: Structure

    @property
    def folded(self) -> frozenset[str]:
        """Parameters that are new or have new values."""
        structure = self.cut.structure
        weights = (structure.graph.tensors[structure.sinks[number].weight or -1] for number in self.stand_ins)
        return frozenset([*(name for name, _ in self.biases.values()), *weights])


def planned(masked: Model, masks: Masks, structure: Structure) -> Operation:
    """Decide what goes, from the weights alone.

    Args:
        masked: the model, masks applied.
        masks: which of its entries are pruned.
        structure: its couplings.
    """
    tensors = masked.params.merged(masked.buffers)
    with torch.no_grad():
        values = known(structure.graph, tensors)
        decision = decide(structure, masks, values, {name: tuple(t.shape) for name, t in tensors.items()})
        deltas = folds(structure, decision, values)
        weights = stand_ins(structure, decision.kept, values)
    cut = Cut(structure, decision)
    biases = {number: holder(structure, number, tensors) for number in deltas}
    after = compacted(cut, biases) if decision.removed.any() else structure
    return Operation(cut, deltas, biases, weights, after)


def tensors_after(masked: Model, operation: Operation) -> dict[str, Tensor]:
    """Every parameter and buffer after surgery; those that took up constants are not rounded to the model's precision.

    Args:
        masked: the model, masks applied.
        operation: what is to be done to it.
    """
    cut, structure = operation.cut, operation.cut.structure
    tensors = masked.params.merged(masked.buffers)
    carried = {structure.sinks[number].weight: stand_in for number, stand_in in operation.stand_ins.items()}
    smaller = dict(tensors)
    for index, name in structure.graph.tensors.items():
        whole = carried[index].folded(tensors[name]) if index in carried else tensors[name]
        smaller[name] = cut.tensor(index, whole)
    for number, (name, holder) in operation.biases.items():
        sink = structure.sinks[number]
        out = sink.out if sink.out is not None else sink.rows
        delta = operation.deltas[number]
        delta = delta[torch.from_numpy(cut.decision.kept(out)).to(delta.device)]
        held = None if holder is None else smaller[structure.graph.tensors[holder]]
        smaller[name] = delta if held is None else held + delta
    return smaller


def rounded(masked: Model, operation: Operation, exact: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `tensors_after` in the precision of the model: a new bias in that of its weight."""
    graph, sinks = operation.cut.structure.graph, operation.cut.structure.sinks
    tensors, out = masked.params.merged(masked.buffers), dict(exact)
    for number, (name, _) in operation.biases.items():
        like = tensors.get(name, tensors.get(graph.tensors.get(sinks[number].weight or -1, ""), exact[name]))
        out[name] = exact[name].to(like.dtype)
    out.update({name: exact[name].to(tensors[name].dtype) for name in operation.folded if name in tensors})
    return out


def holder(structure: Structure, number: int, names: Iterable[str]) -> tuple[str, int | None]:
    """Where the constants of a layer go: its own bias if no other call uses it, else a bias made for this call.

    Args:
        structure: the couplings.
        number: of the sink that makes the layer's call.
        names: of every parameter and buffer.

    Returns:
        The name of the bias, and the value that holds the present one, if there is one.
    """
    graph, sink = structure.graph, structure.sinks[number]
    uses = [index for node in graph.nodes for index in node.inputs]
    bias = sink.node.bound.get(bias_name(sink.node))
    weight = graph.tensors.get(sink.weight or -1, f"{sink.node.module}.weight")
    held = None if bias is None else bias.index
    if held is not None and uses.count(held) == 1 and held in graph.tensors:
        return graph.tensors[held], held
    alone = sink.weight is not None and uses.count(sink.weight) == 1
    name = f"{weight.rpartition('.')[0]}.bias".lstrip(".")
    if held is None and alone and name not in names:
        return name, None
    return f"{weight.replace('.', '_')}_fold_{number}", held
