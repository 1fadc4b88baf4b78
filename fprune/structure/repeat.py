"""A surgery carried out once more, on another instance of the model: from what it kept, whatever the weights are."""

from collections.abc import Collection, Mapping

import numpy as np
from torch import Tensor

from fprune.lineage import Lineage
from fprune.model import Model
from fprune.structure.decide import Decision
from fprune.structure.forms import FORMS, Form
from fprune.structure.labels import Bools
from fprune.structure.operation import Operation, holder
from fprune.structure.program import compacted
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure


def repeated(
    origin: Model,
    structure: Structure,
    lineage: Lineage,
    tensors: Mapping[str, Tensor],
    style: str,
    replaced: Collection[str] = (),
) -> Form:
    """Bring the code of a model to what surgeries made of it.

    Which units went is read from the lineage, and which biases were added from the names: `compact` would decide both
    from the weights, and those of the original need not be those that the surgeries saw.

    Examples:
        >>> import torch
        >>> from fprune import Masks, inputs
        >>> from fprune.structure import compact, trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> model, other = Model.from_module(net), Model.from_module(net).replace({"1.bias": torch.zeros(2)})
        >>> masks = Masks({"1.weight": torch.tensor([[True, False, True]])})
        >>> done = compact(model, masks, trace(model, inputs(torch.ones(1, 4))))
        >>> again = repeated(other, trace(other, inputs(torch.ones(1, 4))), done.lineage, done.model, "module")
        >>> again.model.skeleton[0]
        Linear(in_features=4, out_features=2, bias=True)

    Args:
        origin: the model before every surgery, with any weights.
        structure: its couplings.
        lineage: from the original to the result.
        tensors: every parameter and buffer of the result; they may be on the meta device.
        style: `"module"` or `"graph"`.
        replaced: in style `"module"`, modules whose `forward` is to be generated in any case.

    Returns:
        The smaller model, holding `tensors`, and its structure.

    Raises:
        StructureError: no such form can hold the result.
    """
    cut = Cut(structure, Decision(_removed(structure, lineage), {}))
    own = {*origin.params, *origin.buffers}
    holders = {number: holder(structure, number, own) for number in range(len(structure.sinks))}
    biases = {number: held for number, held in holders.items() if held[0] in tensors and held[0] not in own}
    operation = Operation(cut, {}, biases, {}, compacted(cut, biases))
    names = {*own, *(name for name, _ in biases.values())}  # what graphs hold besides is made with them
    return FORMS[style](origin, operation, {name: tensors[name] for name in names & tensors.keys()}, replaced)


def _removed(structure: Structure, lineage: Lineage) -> Bools:
    """The labels of indices that are gone, unless an index that stays has them too."""
    gone, here = (np.zeros(structure.labels, np.bool_) for _ in range(2))
    for index, name in structure.graph.tensors.items():
        for rows, kept in zip(structure.rows[index], lineage.kept.get(name, ()), strict=False):
            if kept is not None:
                stays = np.zeros(len(rows), np.bool_)
                stays[kept.cpu().numpy()] = True
                gone[rows[~stays]] = True
                here[rows[stays]] = True
    return gone & ~here
