"""Network slimming: train with a penalty on scaling factors, then remove the channels whose factors are small."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import attrs
import torch
from torch import Tensor

from fprune.allocate import Allocation, globally
from fprune.compose import pruner
from fprune.compose.call import declared
from fprune.config import Config
from fprune.criteria import given
from fprune.criteria.batches import Batches
from fprune.errors import CompositionError, ConfigError
from fprune.layers import Layer
from fprune.model import Model
from fprune.scope import Scope
from fprune.structure import Structure, trace
from fprune.trained import Trained
from fprune.training import Train, trained
from fprune.training.factors import Factor, by_label, following, learned
from fprune.training.loop import Loss, MakeOptimizer
from fprune.training.recipe import check_positive, check_training, session, trainer

__all__ = ["slim"]


def _check(
    loss: object = None,
    batches: object = None,
    allocation: object = globally,
    *,
    epochs: object = 1,
    scale: object = 1e-4,
    factors: object = "norm",
    train: object = None,
    optimizer: object = None,
) -> None:
    if factors not in ("norm", "learned"):
        found = f"slim: expected factors 'norm' or 'learned', got {factors!r}"
        raise ConfigError(found, hint="'norm' takes those of the norm after a layer, 'learned' trains new ones")
    if factors == "learned" and train is not None:
        found = "slim: learned factors are trained by the built-in loop, and train brings one of its own"
        raise ConfigError(found, hint="slim(loss, batches, factors='learned')")
    check_positive("slim", "scale", scale)
    check_training("slim", loss, batches, train, epochs, optimizer)


@pruner(check=_check)
def slim(
    params: Mapping[str, Tensor],
    config: Config,
    loss: Loss | None = None,
    batches: Batches | None = None,
    allocation: Allocation = globally,
    *,
    epochs: int = 1,
    scale: float = 1e-4,
    factors: Literal["norm", "learned"] = "norm",
    train: Train | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Trained:
    """Train with an L1 penalty on scaling factors, then remove the channels with the smallest ones.

    minimise loss + scale * sum of |g|; score(i) = |g_i| of output channel i.

    With `factors="norm"` the factors are the affine weights of the norm that follows a layer (BatchNorm, GroupNorm,
    LayerNorm, ...), found in the structure of the model; or, where the config selects norms themselves by `op_types` or
    `op_names`, the weights of those. With `factors="learned"` every selected layer gets a factor for each output
    channel, 1 at the start, trained with the weights and folded into weight and bias at the end: for layers without a
    norm, since a norm undoes what scales its input.

    The training function is the user's own, as `finetune` takes it, and the penalty is added at each of its optimizer
    steps; or the built-in loop, in training mode. Pruned weights are held at zero. The trained model is the result's.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from fprune import one_shot
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> weight = nn.init.ones_(net[1].weight).data.copy_(torch.tensor([0.9, 0.1, 0.2, 0.8]))
        >>> def loss(module, batch):
        ...     return module(batch).square().mean()
        >>> pipeline = one_shot() | slim(loss, [torch.eye(2)], epochs=2)
        >>> result = pipeline.run(net, [{"op_types": ["BatchNorm1d"], "sparsity": 0.5}])
        >>> result.masks["1.weight"]
        tensor([ True, False, False,  True])

    Args:
        params: a `Model`.
        config: what to prune and how much; sparsity is the fraction of the original removed, in [0, 1).
        loss: `loss(module, batch)`, one number.
        batches: a list, a DataLoader, or what else can be read again and again.
        allocation: how the budget spreads; over all layers of a rule together by default.
        epochs: how often the built-in loop reads the batches.
        scale: weight of the penalty, positive.
        factors: whose factors.
        train: a training function of a module, in place of loss and batches.
        optimizer: makes the built-in loop's optimizer of a list of parameters; Adam with rate 0.001 by default.

    Returns:
        One bool mask for each selected name and its bias, the trained model, and the mean loss.

    Raises:
        ConfigError: a selected layer has no factors, or they are frozen; both or neither of train and loss are given.
        CompositionError: only tensors are given; or the structure is needed, and there are no example inputs.
        ScoreError: the loss is not one finite number; names epoch and batch.
        DivergenceError: training made a value non-finite.

    References:
        Liu et al, `Learning Efficient Convolutional Networks through Network Slimming
        <https://arxiv.org/abs/1708.06519>`_, 2017
    """
    scope = Scope.of(params)
    layers = [row.layer for row in scope.plan(Config.of(config)).selected]
    with session(scope, "slim") as model:
        if factors == "learned" and loss is not None:
            _refuse_frozen(model, {layer.weight: layer.weight for layer in layers})  # factors end up in the weights
            after, scores, metrics = learned(
                "slim", model, scope.masks, layers, loss, batches, epochs=epochs, scale=scale, optimizer=optimizer
            )
        else:
            found = _factors(scope, layers)
            _refuse_frozen(model, {name: factor.weight for name, factor in found.items()})
            penalty = {factor.weight: partial(_slope, scale) for factor in found.values()}
            run = trainer("slim", loss, batches, train, epochs, optimizer)
            after, metrics = trained(model, scope.masks, run, penalty)
            scores = {name: after[factor.weight].abs()[factor.index] for name, factor in found.items()}
        scope = attrs.evolve(scope, params=after, model=after)
        if "structure" in declared(allocation, "needs"):
            scope = attrs.evolve(scope, structure=_structure(scope))
            scores = by_label(_structure(scope), scores, scope.layers)
        return Trained(allocation(given(scores, "channel"), scope, config), after, metrics)


def _slope(scale: float, values: Tensor) -> Tensor:
    return scale * values.sign()


def _factors(scope: Scope, layers: Sequence[Layer]) -> dict[str, Factor]:
    """The factors of each layer: a norm's own weight, or that of the norm which follows."""
    own = {layer.weight: Factor(layer.weight, _every(layer)) for layer in layers if _scales(layer)}
    others = [layer for layer in layers if layer.weight not in own]
    if not others:
        return own
    structure = _structure(scope)
    found = {layer.weight: following(structure, layer) for layer in others}
    without = [layer.name for layer in others if found[layer.weight] is None]
    if without:
        raise ConfigError(
            f"slim: no norm with a weight follows {', '.join(map(repr, without[:4]))}",
            hint="exclude them, or train factors of their own: slim(..., factors='learned')",
        )
    return own | {name: factor for name, factor in found.items() if factor is not None}


def _scales(layer: Layer) -> bool:
    """Whether a layer is a norm or a scale: one number for each channel, and no layer of the default types."""
    return len(layer.shape) == 1 and not layer.default


def _every(layer: Layer) -> Tensor:
    return torch.arange(layer.units)


def _structure(scope: Scope) -> Structure:
    if isinstance(scope.structure, Structure):
        return scope.structure
    if scope.model is None or scope.example_inputs is None:
        raise CompositionError(
            "slim: which norm follows a layer is seen in the structure, and example_inputs are not given",
            hint="pass example_inputs=(x,), or select the norms themselves: op_types=['BatchNorm2d']",
        )
    return trace(scope.model, scope.example_inputs)


def _refuse_frozen(model: Model, holders: Mapping[str, str]) -> None:
    """Refuse layers whose factors are, or end up in, a tensor that is not to change."""
    frozen = {name for name, param in model.skeleton.named_parameters() if not param.requires_grad}
    for name, holder in holders.items():
        if holder in frozen:
            raise ConfigError(
                f"slim: the factors of {name!r}, {holder!r}, are frozen (requires_grad=False)",
                hint="unfreeze them, or exclude the layer",
            )
