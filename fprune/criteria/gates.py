"""Scores from gates: how the loss reacts to a factor before a channel's activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import grad_and_value

from fprune.criteria.batches import Batches, Loss, check_data, finite, losses, running, summed
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.points import structure_of
from fprune.criteria.precision import wide_dtype
from fprune.errors import ConfigError
from fprune.layers import Layer, unit_values
from fprune.model import Model
from fprune.scope import Scope
from fprune.structure.graph import Graph, Node, Ref
from fprune.structure.onward import ACTIVATIONS, NORMS, onward
from fprune.structure.uses import USES, unit_dim, uses

__all__ = ["Behind", "activation_taylor", "check_behind"]

Behind: TypeAlias = Literal["layer", "norm"]
"""Where the gates are: behind each layer, or behind the norm that follows it."""


def check_behind(behind: object) -> None:
    """Refuse, when an expression is written, a place for gates that there is not.

    Raises:
        ConfigError: it is neither `"layer"` nor `"norm"`.
    """
    if behind not in ("layer", "norm"):
        raise ConfigError(f"behind: expected 'layer' or 'norm', got {behind!r}", hint="'norm' needs example_inputs")


def _check(loss: object, batches: object, behind: object, squared: bool, training: bool) -> None:
    check_data("activation_taylor", loss, batches)
    check_behind(behind)


@criterion(grain="channel", reads="scope", check=_check)
def activation_taylor(
    scope: Scope,
    layers: Sequence[Layer],
    grain: Grain,
    loss: Loss,
    batches: Batches,
    behind: Behind = "layer",
    squared: bool = True,
    training: bool = False,
) -> dict[str, Tensor]:
    """Score an output channel by the change of the loss, to first order, when its activations are set to 0.

    With a gate z_c = 1 before the activations a_c of channel c, dL/dz_c = sum over samples and positions of
    dL/da * a. score(c) = sum over batches of (dL/dz_c)^2, or |sum over batches of dL/dz_c| where not `squared`.

    A layer is linear in its weight and bias, so a gate behind it is a factor before the channel's weights and bias, and
    one behind a norm a factor before the norm's scale and shift: the model itself is not rewritten, and every use of a
    layer counts.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(1, 2, bias=False)).replace({"weight": torch.ones(2, 1)})
        >>> def loss(model, x):
        ...     return (model(x) * torch.tensor([1.0, -3.0])).sum()
        >>> batches = [torch.tensor([[2.0]]), torch.tensor([[-1.0]])]
        >>> activation_taylor(loss, batches)(model, model.layers)["weight"]
        tensor([ 5., 45.], dtype=torch.float64)
        >>> activation_taylor(loss, batches, squared=False)(model, model.layers)["weight"]
        tensor([1., 3.], dtype=torch.float64)

    Args:
        scope: brings the model; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: channels; filled in by the allocation.
        loss: `loss(model, batch)`, one number.
        batches: batches that can be read again and again.
        behind: `"layer"`; or `"norm"` for gates behind the norm that the structure shows after a layer, whose
            shift counts then, and behind the layer where there is none.
        squared: whether batches are squared before they are added.
        training: whether the model runs in training mode.

    Returns:
        Weight name -> scores, `(units,)`.

    Raises:
        CompositionError: there is no model to run, or no structure to find its norms in.
        ScoreError: the loss of a batch is not one finite number.

    References:
        Molchanov et al, `Pruning Convolutional Neural Networks <https://arxiv.org/abs/1611.06440>`_, 2017;
        Molchanov et al, `Importance Estimation for Neural Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019
    """
    who = "activation_taylor"
    with running(scope, who, training) as model:
        graph = structure_of(scope, who, "behind='layer'").graph if behind == "norm" else None
        gated = _gates(model, layers, {} if graph is None else _norms(graph, layers))
        value = losses(model, loss)

        def reached(gates: dict[str, Tensor], batch: object, where: str) -> Tensor:
            return value(gated(gates), batch, where)

        slope = grad_and_value(reached)
        ones = {layer.weight: _ones(model[layer.weight], layer.units) for layer in layers}

        def terms(batch: object, where: str) -> dict[str, Tensor]:
            found, number = cast("tuple[dict[str, Tensor], Tensor]", slope(ones, batch, where))
            finite(number, where)
            exact = {name: found[name].to(wide_dtype(found[name])) for name in ones}
            return {name: z.square() if squared else z for name, z in exact.items()}

        return {name: total.abs() for name, total in summed(batches, who, terms).items()}


def _ones(weight: Tensor, units: int) -> Tensor:
    """Gates, in float32 at least: their slopes are long sums."""
    dtype = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.ones(units, dtype=dtype, device=weight.device)


Factors: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def _gates(model: Model, layers: Sequence[Layer], norms: Mapping[str, tuple[str, ...]]) -> Factors:
    """The function that puts gates before parameters: a layer's weight and bias, or its norm's scale and shift."""

    def places(layer: Layer, gate: Tensor) -> Iterator[tuple[str, Tensor]]:
        if layer.weight in norms:
            yield from ((name, gate) for name in norms[layer.weight])
        else:
            yield layer.weight, unit_values(gate, layer)
            if layer.bias is not None:
                yield layer.bias, gate

    def gated(gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer in layers:
            for name, gate in places(layer, gates[layer.weight]):
                found[name] = (found.get(name, model[name].detach()) * gate).to(model[name].dtype)
        return found

    return gated


def _norms(graph: Graph, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """The scale and the shift of the norm that follows a layer, where every use of the layer leads to the same one."""
    found: dict[str, tuple[str, ...]] = {}
    calls = uses(graph)
    for layer in layers:
        ways = {_norm(graph, layer, node) for node in calls.get(layer.weight, ())}
        names = ways.pop() if len(ways) == 1 else ()
        if names:
            found[layer.weight] = names
    return found


def _norm(graph: Graph, layer: Layer, use: Node) -> tuple[str, ...]:
    """The parameters of the norm after one use; none where it has no scale for each channel."""
    way = onward(graph, use.out, NORMS)
    if not way or any(node.name in ACTIVATIONS for node in way):
        return ()
    norm, ndim = way[-1], len(graph.shapes[use.out])
    same = unit_dim(USES[norm.name][1], 1, ndim) == unit_dim(USES[use.name][1], len(layer.shape), ndim)
    given: list[Ref | None] = [norm.bound.get(name) for name in ("weight", "bias")]
    held = [ref.index for ref in given if ref is not None and ref.index in graph.tensors]
    scaled = given[0] is not None and held and held[0] == given[0].index and graph.shapes[held[0]] == (layer.units,)
    return tuple(graph.tensors[index] for index in held) if same and scaled else ()
