"""Check that two models compute the same, and find where they part."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.capture import cloned, tensors_mapped
from fprune.structure.graph import Graph, Node, run
from fprune.structure.outputs import leaves, positions
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure
from fprune.tree import Flat, generator

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@attrs.frozen(eq=False)
class Verdict:
    """The outputs of a model and how they compare with others."""

    outputs: list[Tensor]
    difference: float
    ok: bool


def agree(model: Model, expected: list[Tensor] | None, structure: Structure) -> Verdict:
    """Run a model on the example inputs, in evaluation mode, and compare the outputs that matter with those expected.

    Inputs that are one constant, such as zeros, would hide a wrong weight: then drawn ones of their shapes are added.
    """
    outputs: list[Tensor] = []
    for given in _trials(structure.inputs):
        args, kwargs = cloned((given.args, dict(given.kwargs)))
        with torch.no_grad():
            outputs += structure.graph.picked(leaves(model.eval()(*args, **kwargs)))
    if expected is None:
        return Verdict(outputs, 0.0, True)
    differences = [difference(a, b) for a, b in zip(expected, outputs, strict=True)]
    limits = [_TOLERANCE.get(x.dtype, 0.0) for x in expected]
    ok = all(d <= limit for d, limit in zip(differences, limits, strict=True))
    return Verdict(outputs, max(differences, default=0.0), ok)


def _trials(inputs: Inputs) -> list[Inputs]:
    floats = [x for x in leaves((inputs.args, dict(inputs.kwargs))) if x.is_floating_point() and x.numel()]
    if not floats or any((x != x.flatten()[0]).any() for x in floats):
        return [inputs]
    drawn = generator(0, "verify")

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=drawn).to(x) if x.is_floating_point() else x

    args, kwargs = tensors_mapped(draw, (inputs.args, dict(inputs.kwargs)))
    return [inputs, attrs.evolve(inputs, args=args, kwargs=Flat(kwargs))]


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry of `a`; infinite when shapes or non-finite entries differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel():
        return 0.0
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    a, b = a[finite].double(), b[finite].double()
    scale = a.abs().max().item() if a.numel() else 0.0
    gap = (a - b).abs().max().item() if a.numel() else 0.0
    return gap / scale if scale else (0.0 if gap == 0 else float("inf"))


def verify(masked: Model | nn.Module, compacted: Model | nn.Module, inputs: Inputs) -> tuple[float, ...]:
    """Compare two models on given inputs.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import verify
        >>> net = torch.nn.Linear(3, 2)
        >>> verify(net, net, inputs(torch.ones(1, 3)))
        (0.0,)

    Args:
        masked: the reference, run in evaluation mode.
        compacted: the model to check, likewise.
        inputs: arguments of the forward pass; with `outputs=`, which of the outputs to compare.

    Returns:
        One number per output: the largest difference relative to the largest entry of the reference.
    """
    given = Inputs.of(inputs) or Inputs()
    results: list[Any] = []
    for net in (masked, compacted):
        args, kwargs = cloned((given.args, dict(given.kwargs)))
        with torch.no_grad():
            results.append(Model.of(net).eval()(*args, **kwargs))
    pairs = list(zip(*map(leaves, results), strict=True))
    picked = range(len(pairs)) if given.outputs is None else positions(given.outputs, results[0])
    return tuple(difference(*pairs[position]) for position in picked)


def first_difference(cut: Cut, new: Graph, masked: Model, tensors: Mapping[str, Tensor]) -> str:
    """Where the compact program parts from the masked one: every value must equal the masked value's kept part."""
    before = {**masked.params, **masked.buffers}
    env_a = _start(cut.structure.graph, before, cut.structure.inputs)
    env_b = _start(new, tensors, cut.structure.inputs)
    problem: list[str] = []

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return node.op(*args, **_placed(kwargs, masked.device))

    try:
        run(cut.structure.graph, call, env_a)
        run(new, call, env_b)
    except Exception as error:
        problem.append(f"{type(error).__name__}: {error}")
    for node in new.nodes:
        for index in node.outs:
            if index in env_a and index in env_b and difference(cut.tensor(index, env_a[index]), env_b[index]) > 1e-3:
                return str(node)
    return problem[0] if problem else ""


def _placed(kwargs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {**kwargs, "device": device} if "device" in kwargs else kwargs


def _start(graph: Graph, tensors: Mapping[str, Tensor], inputs: Inputs) -> dict[int, Any]:
    given = leaves(cloned((inputs.args, dict(inputs.kwargs))))
    env: dict[int, Any] = dict(zip(graph.inputs, given, strict=True))
    env.update({index: tensors[name].clone() for index, name in graph.tensors.items()})
    env.update({index: value.clone() for index, value in graph.constants.items()})
    return env
