"""What a pruner looks at: parameters, their layers, and what is already gone."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import final

import attrs
import torch
from torch import Tensor

from fprune.config import Config
from fprune.counting import alive_units
from fprune.inputs import Inputs
from fprune.layers import Layer, layers_of
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.plan import Plan
from fprune.records import TaskResult
from fprune.tables import html_table
from fprune.tree import same

__all__ = ["Scope"]


@final
@attrs.frozen(eq=False, repr=False)
class Scope(Mapping[str, Tensor]):
    """A mapping of parameters that also knows layers, inherited masks and the original shapes.

    Pruners accept any mapping; in a run they are given a scope, so that sparsity is counted on the original model.

    Examples:
        >>> scope = Scope.of({"w": torch.ones(3, 2)}, masks=Masks({"w": torch.tensor([[True], [False], [True]])}))
        >>> scope.alive_units(scope.layers[0])
        tensor([ True, False,  True])
        >>> scope
        Scope(1 params, 1 layers, masks of 1, seed=0)

    Args:
        params: the present parameters by name.
        layers: the present layers.
        model: the present model, callable, for criteria that run it; `None` when only tensors are known.
        masks: inherited masks, in present coordinates.
        lineage: where the present indices come from; `None` when nothing was compacted.
        structure: the trace of the present model, when there is one.
        seed: the seed for random criteria.
        example_inputs: arguments of one forward pass.
        origin: the model before any compaction; `None` when that is the present one.
        origin_structure: its trace, when there is one.
    """

    params: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    model: Model | None = None
    masks: Masks = attrs.field(factory=Masks)
    lineage: Lineage | None = None
    structure: object | None = attrs.field(default=None, eq=False)
    seed: int = 0
    example_inputs: Inputs | None = None
    origin: Model | None = None
    origin_structure: object | None = attrs.field(default=None, eq=False)

    @classmethod
    def of(
        cls,
        params: Mapping[str, Tensor],
        *,
        masks: Masks | None = None,
        lineage: Lineage | None = None,
        structure: object | None = None,
        seed: int = 0,
        example_inputs: object = None,
    ) -> "Scope":
        """Return a scope as it is, and make one of a model or of any mapping of names to tensors.

        Args:
            params: a scope, a `Model`, or a mapping.
            masks: inherited masks, in the coordinates of `params`.
            lineage: where the indices of `params` come from.
            structure: the trace of the model, when there is one.
            seed: the seed for random criteria.
            example_inputs: arguments of one forward pass.

        Returns:
            The scope.

        Raises:
            ModelError: a mask does not fit its parameter.
        """
        if isinstance(params, Scope):
            return params
        model = params if isinstance(params, Model) else None
        inherited = Masks() if masks is None else masks
        inherited.check(params)
        return cls(
            params,
            layers_of(params) if model is None else model.layers,
            model,
            inherited,
            lineage,
            structure,
            seed,
            Inputs.of(example_inputs),
        )

    @classmethod
    def from_result(cls, result: TaskResult, *, seed: int | None = None) -> "Scope":
        """Return what a pruner sees of a round: its model, masks, lineage and trace.

        Args:
            result: the round so far.
            seed: the pruner's own seed; the run's by default.

        Returns:
            The scope.
        """
        task = result.task
        scope = cls.of(
            result.model,
            masks=result.masks,
            lineage=result.lineage,
            structure=result.structure,
            seed=task.seed if seed is None else seed,
            example_inputs=task.example_inputs,
        )
        if result.lineage.is_identity:
            return scope
        return attrs.evolve(
            scope,
            layers=_present(result.origin, result.model),
            origin=result.origin,
            origin_structure=task.origin_structure,
        )

    def plan(self, config: Config) -> Plan:
        """Resolve a config on the present layers."""
        return config.resolve(self)

    def original_units(self, layer: Layer) -> int:
        """Return how many output units a layer had in the original model."""
        shape = self._original_shape(layer)
        if layer.axis == 0 or self.lineage is None:
            return shape[layer.axis] if layer.axis == 0 else layer.units
        # The original groups of a transposed convolution are not on record, but its bias has one entry a unit.
        bias = None if layer.bias is None else self.lineage.shapes.get(layer.bias)
        return bias[0] if bias else shape[layer.axis] * layer.groups

    def original_elements(self, layer: Layer) -> int:
        """Return how many weights a layer had in the original model."""
        return prod(self._original_shape(layer))

    def gone_units(self, layer: Layer) -> int:
        """Return how many output units of a layer compactions removed."""
        return self.original_units(layer) - layer.units

    def alive_units(self, layer: Layer) -> Tensor:
        """Return which present units keep at least one weight under the inherited masks.

        Args:
            layer: one of `layers`.

        Returns:
            Bool, `(units,)`, on the parameter's device.
        """
        device = self.params[layer.weight].device
        if layer.weight not in self.masks:
            return torch.ones(layer.units, dtype=torch.bool, device=device)
        return alive_units(self.masks[layer.weight].to(device), layer)

    def alive(self, layer: Layer) -> Tensor:
        """Return the inherited mask of a layer's weight: bool, broadcastable to it, on its device."""
        device = self.params[layer.weight].device
        if layer.weight not in self.masks:
            return torch.ones((1,) * len(layer.shape), dtype=torch.bool, device=device)
        return self.masks[layer.weight].to(device)

    def _original_shape(self, layer: Layer) -> tuple[int, ...]:
        return layer.shape if self.lineage is None else self.lineage.shapes.get(layer.weight, layer.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Scope) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors inside

    def __repr__(self) -> str:
        parts = f"{len(self.params)} params, {len(self.layers)} layers, masks of {len(self.masks)}"
        return f"Scope({parts}, seed={self.seed})"

    def _repr_html_(self) -> str:
        rows = [
            (layer.name, layer.type, f"{int(self.alive_units(layer).sum())}/{self.original_units(layer)}")
            for layer in self.layers
        ]
        return html_table(("layer", "type", "units alive"), rows, title=repr(self))


def _present(origin: Model, model: Model) -> tuple[Layer, ...]:
    """The original model's layers in their present shapes: rules mean the same layers in every round.

    A compact model need not have the original's classes (a graph has none), but it keeps the names of its tensors.
    """
    now = {layer.weight: layer for layer in model.layers}
    return tuple(_resized(layer, now, model) for layer in origin.layers if layer.weight in model)


def _resized(layer: Layer, now: Mapping[str, Layer], model: Model) -> Layer:
    same_class = now.get(layer.weight)
    if same_class is not None and same_class.type == layer.type:
        return same_class
    shape = tuple(model[layer.weight].shape)
    bias = layer.bias if layer.bias in model else None
    units = model[bias].shape[0] if bias is not None else shape[layer.axis] * layer.groups
    return attrs.evolve(layer, shape=shape, bias=bias, units=units, groups=units // shape[layer.axis])
