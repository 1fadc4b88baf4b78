"""What a pruner that trains returns: masks, the model they are for, and numbers."""

from typing import final

import attrs

from fprune.masks import Masks
from fprune.model import Model
from fprune.report import as_flat
from fprune.tree import Flat, same

__all__ = ["Trained"]


@final
@attrs.frozen(eq=False, repr=False)
class Trained:
    """What a `@pruner` that trains returns in place of `Masks`.

    In a run the model takes the place of the round's, its masked weights become 0, and the metrics join the round's.
    Outside a run, `.masks(...)` gives the masks alone.

    Examples:
        >>> import torch
        >>> from fprune import pruner
        >>> @pruner
        ... def doubled(params, config):
        ...     model = params.model.replace({"weight": 2 * params["weight"]})
        ...     return Trained(Masks({"weight": model["weight"] > 0}), model, {"factor": 2.0})
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> model = Model.from_module(net).replace({"weight": torch.tensor([[3.0, -1.0]])})
        >>> from fprune import one_shot
        >>> result = (one_shot() | doubled()).run(model, 0.5)
        >>> result.model["weight"], result.metrics["factor"]
        (tensor([[6., 0.]]), 2.0)

    Args:
        masks: name -> bool tensor, what to keep.
        model: a model with the names and shapes of the one the pruner was given.
        metrics: finite numbers by name.
    """

    masks: Masks
    model: Model
    metrics: Flat[float] = attrs.field(factory=Flat[float], converter=as_flat)

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Trained) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors inside

    def __repr__(self) -> str:
        return f"Trained({self.masks!r}, {self.model!r})"
