"""Go back to the weights the run began with, keeping what was pruned."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from fprune import structure
from fprune.compose import stage
from fprune.errors import StageError
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.records import TaskResult
from fprune.tree import Flat


@stage(reads="tensors")
def reset_weight(result: TaskResult) -> TaskResult:
    """Give every parameter and buffer its value of before the run; the masks stay applied.

    w <- where(mask, w_origin, 0)

    What functions carry from round to round, such as the moments of an optimizer, is dropped: it belongs to the weights
    that are gone.

    Examples:
        >>> import torch
        >>> from fprune.stages import finetune
        >>> net = torch.nn.Linear(2, 1)
        >>> def train(module):
        ...     torch.nn.init.ones_(module.weight)
        >>> start = TaskResult.start(net, 0.5)
        >>> (finetune(train) | reset_weight())(start).model == start.model
        True

    Args:
        result: the record so far; filled in by the run.

    Returns:
        The record with the model at its first weights, as compact as it was.
    """
    result = result.replace(carried=Flat[Any]())
    lineage, origin, model = result.lineage, result.origin, result.model
    if not _only_masked_is_gone(result):
        return _compacted_again(result)
    params = result.masks.apply(lineage.slice(origin.params))
    return result.replace(model=model.replace(params=params, buffers=lineage.slice(origin.buffers)))


def _only_masked_is_gone(result: TaskResult) -> bool:
    """Whether slicing the origin gives the origin, masked and compacted.

    It does when every entry that compactions removed was masked: then nothing of it reaches any other. A channel whose
    consumers are not masked leaves a constant behind, which compaction folds into a bias.
    """
    lineage, origin, model = result.lineage, result.origin, result.model
    same_names = model.params.keys() == origin.params.keys() and model.buffers.keys() == origin.buffers.keys()
    return same_names and not lineage.folded and lineage.masks.shrinks(lineage.expand_masks(Masks({})))


def _compacted_again(result: TaskResult) -> TaskResult:
    """The origin, masked as this run has masked it so far, and compacted anew.

    Constants that a compaction folded come from the weights of that moment and have no counterpart in the origin, so
    slicing it cannot give them.
    """
    origin, inputs = result.origin, result.task.example_inputs
    traced = result.task.origin_structure
    if traced is None and inputs is None:
        raise StageError(
            "the compact model has folded constants, and example_inputs are not given to fold the first ones",
            hint="pass what the model's forward takes: example_inputs=(x,)",
        )
    if traced is None:
        traced = structure.trace(origin, cast(Inputs, inputs))
    done = structure.compact(origin, _masks_of_origin(result), cast(structure.Structure, traced))
    return result.replace(model=done.model, masks=done.masks, lineage=done.lineage, structure=done.structure)


def _masks_of_origin(result: TaskResult) -> Masks:
    """What pruners masked so far, in the shapes of the origin; what only a compaction removed counts as kept."""
    lineage = result.lineage
    present = {
        name: _widened(mask, lineage.kept.get(name, ()), lineage.shapes[name])
        for name, mask in result.masks.items()
        if name in lineage.shapes  # a bias that a compaction added is made anew
    }
    return lineage.masks & Masks(present)


def _widened(mask: Tensor, kept: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor:
    """A mask at the original indices, true in between; a dimension of size 1 stays."""
    for dim, index in enumerate(kept):
        if index is not None and mask.shape[dim] > 1:
            wide = [size if d == dim else have for d, (size, have) in enumerate(zip(shape, mask.shape, strict=True))]
            mask = mask.new_ones(wide).index_copy(dim, index.to(mask.device), mask)
    return mask
