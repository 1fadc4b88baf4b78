"""Make the model as small as its masks allow."""

from fprune.compose import stage
from fprune.compose.prune import ensure_structure
from fprune.errors import StageError
from fprune.records import TaskResult
from fprune.structure import Structure, compact
from fprune.training.carried import cut


@stage(needs=("masks", "structure"), reads="tensors")
def speed_up(result: TaskResult, *, style: str = "auto") -> TaskResult:
    """Remove what is masked entirely, so that the smaller model computes what the masked one does.

    The result is run on the example inputs beside the masked model and refused if any output differs. Masks that are
    not whole units stay masks of the smaller model; the lineage maps every dimension back to the original. What
    training functions carry, such as the moments of an optimizer, is cut in the same way.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from fprune import dependency_aware, l1, one_shot
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> pipeline = one_shot() | l1(dependency_aware) | speed_up()
        >>> result = pipeline.run(net, [{"op_names": ["0"], "sparsity": 0.5}], example_inputs=(torch.ones(1, 4),))
        >>> result.model.to_module()[0]
        Linear(in_features=4, out_features=4, bias=True)

    Args:
        result: the record so far; filled in by the run.
        style: `"module"` keeps the model's class, `"graph"` gives a `torch.fx.GraphModule`, `"auto"` the first that is
            exact.

    Returns:
        The record with a smaller model, what is left of the masks, and the lineage extended.

    Raises:
        StructureError: no smaller model computes the same; names the first call that differs.
    """
    result = ensure_structure(result)
    if not isinstance(result.structure, Structure):
        raise StageError(f"structure: expected a fprune.structure.Structure, found {type(result.structure).__name__}")
    done = compact(result.model, result.masks, result.structure, style=style)
    kept = tuple(f"{family}: {why}" for family, why in done.report.refused.items())
    if done.report.style == "unchanged":
        return result.replace(notes=(*result.notes, *kept))
    return result.replace(
        model=done.model,
        masks=done.masks,
        lineage=result.lineage.then(done.lineage),
        structure=done.structure,
        notes=(*result.notes, *kept),
        carried=cut(result.carried, done.lineage, result.model, done.model),
    )
