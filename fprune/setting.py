"""What a schedule may know of a model besides its reports: layers and couplings, never weights."""

from collections.abc import Mapping
from typing import final

import attrs
from torch import nn

from fprune.config import Config, ConfigLike
from fprune.counting import realised
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.model import Model
from fprune.plan import Plan
from fprune.records import TaskResult
from fprune.structure import Structure, trace
from fprune.tree import Flat

__all__ = ["Setting"]


def _flat(value: Mapping[str, float]) -> Flat[float]:
    return Flat(value)


def _removed(start: TaskResult, coupled: bool) -> dict[str, float]:
    """What is gone where a run began: of a state in the middle of a run, what the caller's masks removed."""
    task = start.task
    layers = [row.layer for row in task.plan.selected]
    if start.index < 0:
        channels, elements = realised(layers, start.model, start.masks, start.lineage)
    else:
        channels, elements = realised(layers, task.origin, task.origin_masks, Lineage.identity(task.origin))
    return {name: gone.fraction for name, gone in (channels if coupled else elements).items() if gone.removed}


@final
@attrs.frozen(repr=False)
class Setting:
    """The layers a schedule divides an amount over, what ties them together, and the seed of its draws.

    It is the same in every round of a run and holds no weights, so that a schedule which reads it remains a function
    of its target, its options and the reports.

    Examples:
        >>> setting = Setting.of(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 0.5, seed=3)
        >>> setting
        Setting(2 layers, seed=3)
        >>> [(row.layer.name, row.layer.shape) for row in setting.plan.selected]
        [('0', (8, 4)), ('1', (2, 8))]

    Args:
        plan: the target resolved on the original model, one row for each layer.
        seed: where the schedule's draws come from; derived from the run's seed.
        structure: what lives and dies together, when a stage or the schedule needs it; derived data that equality
            leaves out.
        coupled: whether layers lose the channels they share together, as under `dependency_aware`.
        removed: weight name -> fraction that is gone before the first round: of its channels when coupled, else of its
            weights. Of a fresh model nothing is.
    """

    plan: Plan
    seed: int = 0
    structure: Structure | None = attrs.field(default=None, eq=False)
    coupled: bool = attrs.field(default=attrs.Factory(lambda self: self.structure is not None, takes_self=True))
    removed: Flat[float] = attrs.field(factory=Flat[float], converter=_flat)

    @classmethod
    def of(
        cls, model: nn.Module | Model, config: ConfigLike, *, seed: int = 0, example_inputs: object = None
    ) -> "Setting":
        """Return what a schedule would be told in a run, to ask it for goals by hand.

        Args:
            model: the network.
            config: the target.
            seed: the schedule's seed.
            example_inputs: what the model's forward takes; with them the structure is traced.

        Returns:
            The setting.

        Raises:
            ConfigError: the config does not fit the model.
        """
        taken, given = Model.of(model), Inputs.of(example_inputs)
        return cls(Config.of(config).resolve(taken), seed, None if given is None else trace(taken, given))

    @classmethod
    def at(cls, start: TaskResult, seed: int, *, coupled: bool) -> "Setting":
        """Return the setting of a run that goes on from a state."""
        task = start.task
        found = (
            start.structure if task.origin_structure is None and start.lineage.is_identity else task.origin_structure
        )
        structure = found if isinstance(found, Structure) else None
        together = coupled and structure is not None
        return cls(task.plan, seed, structure, together, _removed(start, together))

    def __repr__(self) -> str:
        traced = "" if self.structure is None else f", {len(self.structure.families)} families"
        return f"Setting({len(self.plan.selected)} layers{traced}, seed={self.seed})"
