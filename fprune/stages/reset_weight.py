"""Go back to the weights the run began with, keeping what was pruned."""

from typing import cast

from fprune import structure
from fprune.compose import stage
from fprune.errors import StageError
from fprune.records import TaskResult


@stage
def reset_weight(result: TaskResult) -> TaskResult:
    """Give every parameter and buffer its value of before the run; the masks stay applied.

    w <- where(mask, w_origin, 0)

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
    lineage, origin, model = result.lineage, result.origin, result.model
    same_names = model.params.keys() == origin.params.keys() and model.buffers.keys() == origin.buffers.keys()
    if lineage.folded or not same_names:
        return _compacted_again(result)
    params = result.masks.apply(lineage.slice(origin.params))
    return result.replace(model=model.replace(params=params, buffers=lineage.slice(origin.buffers)))


def _compacted_again(result: TaskResult) -> TaskResult:
    """The origin, masked as this run has masked it so far, and compacted anew.

    A compaction that folds constants of removed channels into biases, or adds tensors for them, computes values from
    the weights of that moment. They have no counterpart in the origin, so slicing it cannot give them; compacting it
    with all masks so far does.
    """
    origin, inputs = result.origin, result.task.example_inputs
    if inputs is None:
        raise StageError("the compact model has folded constants, and example_inputs are not given to fold them again")
    masks = result.lineage.expand_masks(result.masks)
    traced = result.task.origin_structure or structure.trace(origin, inputs)
    done = structure.compact(origin, masks, cast(structure.Structure, traced))
    return result.replace(model=done.model, masks=done.masks, lineage=done.lineage, structure=done.structure)
