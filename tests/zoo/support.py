"""What the tests of the zoo share: a case traced once, pruned once, and compared."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fprune import Config, Masks, Model, TaskResult, compact, dependency_aware, l1, one_shot, speed_up
from fprune.layers import Layer
from fprune.structure import trace
from tests.zoo.case import Case, answer, difference
from tests.zoo.models import BY_NAME

TOLERANCE = 1e-12


@attrs.frozen(eq=False)
class Traced:
    """A network of the table, its model and its structure."""

    case: Case
    net: nn.Module
    model: Model
    structure: Any

    def masks(self, sparsity: float) -> Masks:
        """Dependency-aware masks, from the structure already traced."""
        config = Config.of(self.case.config(sparsity))
        return l1(dependency_aware).masks(
            self.model, config, example_inputs=self.case.inputs(), structure=self.structure
        )

    def compacted(self, masks: Masks) -> tuple[Model, Any]:
        """The masked model, and what compaction makes of it."""
        masked = self.model.replace(params=masks.apply(self.model))
        return masked, compact(masked, masks, self.structure)

    def selected(self, sparsity: float = 0.5) -> list[Layer]:
        """The layers the case's rules select."""
        return [row.layer for row in Config.of(self.case.config(sparsity)).resolve(self.model).selected]


@attrs.frozen(eq=False)
class Pruned:
    """A network pruned at 50 % by the public pipeline: masked, and the same result after `speed_up`."""

    case: Case
    net: nn.Module
    before: Mapping[str, Any]
    masked: TaskResult
    compact: TaskResult


@functools.cache
def traced(name: str) -> Traced:
    case = BY_NAME[name]
    net = case.net()
    model = Model.from_module(net)
    return Traced(case, net, model, trace(model, case.inputs()))


@functools.cache
def pruned(name: str) -> Pruned:
    case = BY_NAME[name]
    net = case.net()
    before = snapshot(net)
    pipeline = one_shot() | l1(dependency_aware)
    masked = pipeline.run(net, case.config(0.5), example_inputs=case.inputs())
    return Pruned(case, net, before, masked, speed_up()(masked))


def snapshot(net: nn.Module) -> dict[str, Any]:
    """Everything a caller could see change: bytes, versions, flags, hooks."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    state: dict[str, Any] = {name: t.detach().clone().numpy().tobytes() for name, t in tensors.items()}
    state |= {f"{name} version": t._version for name, t in tensors.items()}
    state |= {f"{name} flags": (t.requires_grad, t.dtype, t.shape, t.stride()) for name, t in tensors.items()}
    for name, module in net.named_modules():
        state[f"{name} module"] = (type(module), module.training, len(module._forward_hooks), sorted(module.__dict__))
    return state


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter under every name it has."""
    return dict(module.named_parameters(remove_duplicate=False))


def units_of(module: nn.Module, layer: Layer) -> int:
    """Output units of a layer, counted on the tensors of an actual module."""
    weight = tensors_of(module)[layer.weight]
    repeats = int(getattr(module.get_submodule(layer.name), "groups", 1)) if layer.groups > 1 else 1
    return weight.shape[layer.axis] * repeats


def expected_loss(case: Case, layer: Layer, sparsity: float) -> range:
    """How many units may be gone: exactly `floor(s n)`, or less where the case says why."""
    if layer.name in case.keeps:
        return range(1)
    target = math.floor(sparsity * layer.units + 1e-9)
    grain = case.grain.get(layer.name, case.grain.get("*", 1))
    return range(max(target - grain + 1, 0), target + 1)


def wrong_counts(case: Case, module: nn.Module, layers: list[Layer], sparsity: float) -> dict[str, str]:
    """The layers that lost more or less than asked; empty when all is well."""
    wrong = {}
    for layer in layers:
        gone, expected = layer.units - units_of(module, layer), expected_loss(case, layer, sparsity)
        if gone not in expected:
            wrong[layer.name] = f"{gone} of {layer.units} gone, expected {expected.start} to {expected.stop - 1}"
    return wrong


@torch.no_grad()
def disagreement(case: Case, masked: Model, small: Any) -> dict[str, float]:
    """Relative difference on example inputs, other inputs, larger inputs and other batch sizes; empty when exact."""
    trials = {"example": case.inputs(), "batch 1": case.inputs(batch=1, seed=9), "batch 5": case.inputs(5, seed=8)}
    trials |= {f"seed {seed}, x3": case.inputs(seed=seed, scale=3.0) for seed in (1, 2, 3)}
    found = {trial: difference(answer(masked, inputs), answer(small, inputs)) for trial, inputs in trials.items()}
    return {trial: value for trial, value in found.items() if not value <= TOLERANCE}
