"""Scores from the diagonal of the Hessian: the change of the loss without a weight, to second order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fprune.criteria.batches import Batches, Loss, added, check_data, differentiated, each, running
from fprune.criteria.criterion import Grain, criterion
from fprune.criteria.derivatives import only_alive, products, wide
from fprune.criteria.original import original_shape, taken
from fprune.errors import ConfigError, ConfigTypeError
from fprune.layers import Layer
from fprune.scope import Scope
from fprune.tree import generator

__all__ = ["curvature", "signs"]


def _check(loss: object, batches: object, probes: object, training: bool) -> None:
    check_data("the criterion", loss, batches)
    check_probes(probes)


def check_probes(probes: object) -> None:
    """Refuse a number of draws that is not a positive int."""
    if type(probes) is not int:
        raise ConfigTypeError(f"probes: expected an int, got {probes!r} ({type(probes).__name__})", hint="probes=4")
    if probes < 1:
        raise ConfigError(f"probes: expected at least 1, got {probes}", hint="more probes give less noise")


@criterion(grain="element", reads="scope", check=_check)
def curvature(
    scope: Scope,
    layers: Sequence[Layer],
    grain: Grain,
    loss: Loss,
    batches: Batches,
    *,
    probes: int = 4,
    training: bool = False,
) -> dict[str, Tensor]:
    """Score a weight by the curvature of the loss along it.

    score(i) = 1/2 h_i w_i^2, where h is Hutchinson's estimate of the Hessian's diagonal: the mean over batches and
    draws of v * (H v), elementwise, each v a vector of random signs. The estimate has no bias; its error comes from the
    Hessian's other entries and falls with the square root of the number of draws. Signs of the curvature stay: where
    the loss bends down, removing a weight is expected to lower it, and scores are negative.

    Every batch has its own draws, seeded by the seed, the weight's name and the batch's number, made on the CPU.

    Examples:
        >>> from fprune import Model
        >>> model = Model.from_module(torch.nn.Linear(2, 1, bias=False)).replace({"weight": torch.ones(1, 2)})
        >>> scores = curvature(lambda model, x: model(x).square().sum() / 2, [torch.tensor([[3.0, 0.0]])])
        >>> scores(model, model.layers)["weight"]
        tensor([[4.5000, 0.0000]])

    Args:
        scope: brings the model and the seed; filled in by the allocation.
        layers: the layers to score; filled in by the allocation.
        grain: elements; filled in by the allocation.
        loss: `loss(model, batch)`, one number.
        batches: a re-iterable of batches.
        probes: how many draws for each batch, at least 1; each costs about two backward passes.
        training: whether the model runs in training mode.

    Returns:
        Weight name -> scores; they can be negative.

    References:
        LeCun et al, `Optimal Brain Damage
        <https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html>`_, 1989
        Bekas et al, `An estimator for the diagonal of a matrix <https://doi.org/10.1016/j.apnum.2007.01.003>`_, 2007
    """
    with running(scope, "hessian", training) as model:
        weights = differentiated(model, layers)
        product = products(model, loss, weights)
        count, total = 0, dict[str, Tensor]()
        for where, batch in each(batches, "hessian"):
            for probe in range(probes):
                count += 1
                draw = only_alive(scope, {layer.weight: signs(scope, layer, where, probe) for layer in layers})
                turned = product(batch, where, draw)
                total = added(total, {name: turned[name] * draw[name] for name in weights})
        return {n: total[n].mul_(0.5 / count) * wide(weight).square() for n, weight in weights.items()}


def signs(scope: Scope, layer: Layer, where: str, probe: int) -> Tensor:
    """Draw a sign for each weight of a layer; what is left of a compacted model keeps its own."""
    shape = original_shape(scope, layer, "element")
    source = generator(scope.seed, layer.weight, where, probe)
    drawn = torch.randint(0, 2, shape, generator=source, dtype=torch.float32, device="cpu").mul_(2).sub_(1)
    weight = scope[layer.weight]
    return taken(scope, layer, drawn, "element").to(weight.device, wide(weight).dtype)
