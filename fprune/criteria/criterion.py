"""What a criterion is: a pure function that scores weights, lifted so that it works on every layer of a model."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, final, overload

import attrs
import torch
from torch import Tensor

from fprune.compose.call import call_text
from fprune.criteria.precision import wide_dtype
from fprune.errors import ConfigTypeError, ModelError, ScoreError
from fprune.finite import all_finite, non_finite
from fprune.layers import Layer, unit_values, unit_view
from fprune.masks import zeroed
from fprune.scope import Scope
from fprune.tree import same

__all__ = ["Criterion", "Grain", "criterion"]

P = ParamSpec("P")
Grain: TypeAlias = Literal["element", "channel"]
Reads: TypeAlias = Literal["weight", "scope"]


@final
@attrs.frozen(eq=False, repr=False)
class Criterion:
    """Scores, low for what should go first; made by calling a function that `criterion` has lifted.

    A criterion knows nothing about amounts: an allocation asks it for scores and decides how many go.

    Examples:
        >>> from fprune.criteria import channel_norm
        >>> from fprune.layers import layers_of
        >>> params = {"w": torch.tensor([[3.0, -1.0], [0.5, 0.5]])}
        >>> channel_norm(p=1)
        channel_norm(p=1)
        >>> channel_norm(p=1)(params, layers_of(params))
        {'w': tensor([4., 1.])}
        >>> channel_norm(p=1)(params, layers_of(params), grain="element")["w"]
        tensor([[4., 4.],
                [1., 1.]])

    Args:
        fn: the pure function.
        grain: what it scores: every `"element"`, every output `"channel"`, or `"any"` of the two, as asked.
        options: its keyword arguments, in the order of its signature.
        reads: `"weight"`: `fn(weight, **options)`, one layer at a time; or `"scope"`: all layers at once,
            `fn(scope, layers, grain, **options)`.
        default: the grain that allocations use when they have no reason to ask for another one, where that is not
            the one the function scores.
    """

    fn: Callable[..., Any]
    grain: Grain | Literal["any"]
    options: tuple[tuple[str, Any], ...] = ()
    reads: Reads = "weight"
    default: Grain | None = None

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.fn.__name__

    @property
    def natural(self) -> Grain:
        """The grain an allocation uses when it has no reason to ask for another one."""
        if self.default is not None:
            return self.default
        return "element" if self.grain == "any" else self.grain

    def at(self, grain: Grain) -> "Criterion":
        """Return this criterion with another natural grain; scores are converted where the function has its own.

        Examples:
            >>> from fprune.criteria import magnitude
            >>> magnitude().natural, magnitude().at("channel").natural
            ('element', 'channel')
        """
        return attrs.evolve(self, default=grain)

    def __call__(
        self, params: Mapping[str, Tensor], layers: Sequence[Layer], grain: Grain | None = None
    ) -> dict[str, Tensor]:
        """Score layers.

        An element's score becomes its channel's by the sum over the channel, a channel's its elements' by repetition.
        What inherited masks removed is not shown to a criterion of channels, reads as 0 for one of elements, and has
        the score `-inf`.

        Args:
            params: a scope, a model, or any mapping of names to tensors.
            layers: the layers to score.
            grain: `"element"` or `"channel"`; by default the natural one.

        Returns:
            Weight name -> scores on the weight's device, float32 or float64: of the weight's shape for elements,
            `(units,)` for channels.

        Raises:
            ModelError: a weight is not finite, or not dense floating point numbers.
            ScoreError: a score is not finite, has the wrong shape, or the weight was changed.
        """
        return {layer.weight: scores for layer, scores in self.each(params, layers, grain)}

    def each(
        self, params: Mapping[str, Tensor], layers: Sequence[Layer], grain: Grain | None = None
    ) -> Iterator[tuple[Layer, Tensor]]:
        """Score layers one after the other, so that not all scores are in memory at the same time.

        Args:
            params: as in a call.
            layers: as in a call.
            grain: as in a call.

        Yields:
            Each layer with its scores.
        """
        scope = Scope.of(params)
        asked = self.natural if grain is None else grain
        own = asked if self.grain == "any" else self.grain
        options = dict(self.options)
        whole: Mapping[str, Tensor] | None = None
        if self.reads == "scope":
            for layer in layers:
                _readable(scope, layer)
            whole = self.fn(scope, layers, own, **options)
        for layer in layers:
            found = self._of_weight(scope, layer, own, options) if whole is None else whole.get(layer.weight)
            expected = layer.shape if own == "element" else (layer.units,)
            yield layer, _finished(scope, layer, self._checked(found, layer.weight, expected), own, asked)

    def _of_weight(self, scope: Scope, layer: Layer, own: Grain, options: dict[str, Any]) -> Tensor:
        """Show the weight to the function: as it is, or as one row for each unit that is alive."""
        weight = _readable(scope, layer)
        version = _version(weight)
        if own == "element":
            scores = self.fn(weight, **options)
        else:
            rows = unit_view(weight, layer)
            alive = scope.alive_units(layer) if layer.weight in scope.masks else None
            if alive is None or bool(alive.all()):
                scores = self.fn(rows, **options)
            else:
                of_alive = self.fn(rows[alive], **options) if bool(alive.any()) else rows.new_zeros(0)
                of_alive = self._checked(of_alive, layer.weight, (int(alive.count_nonzero()),))
                scores = of_alive.new_zeros(layer.units).masked_scatter_(alive, of_alive)
        if _version(weight) != version:
            found = f"{self!r} changed the weight {layer.weight!r} in place"
            raise ScoreError(found, hint="use functions that return a new tensor, such as abs() and not abs_()")
        return scores

    def _checked(self, scores: object, name: str, expected: tuple[int, ...]) -> Tensor:
        """Return scores as finite floats of the expected shape."""
        if not isinstance(scores, Tensor):
            found = "nothing" if scores is None else type(scores).__name__
            raise ScoreError(f"{self!r} gave {found} for {name!r}", hint=f"return a tensor of shape {expected}")
        if tuple(scores.shape) != expected:
            found = f"{self!r} gave scores of shape {tuple(scores.shape)} for {name!r}, expected {expected}"
            raise ScoreError(found, hint="a channel criterion gets (units, rest) and returns (units,)")
        scores = scores.detach()
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.to(torch.float32 if scores.is_floating_point() else torch.float64)
        if not all_finite(scores):
            found = f"{self!r} gave {non_finite(scores)} for {name!r}, expected finite scores"
            raise ScoreError(found, hint="look for overflow, 0 / 0 and infinite gradients, or exclude the layer")
        return scores

    def __eq__(self, other: object) -> bool:
        return same(self._key(), other._key()) if isinstance(other, Criterion) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.fn, self.grain, self.reads))

    def _key(self) -> tuple[object, ...]:
        return self.fn, self.grain, self.options, self.reads, self.default

    def __repr__(self) -> str:
        return call_text(self.name, (), self.options)


@overload
def criterion(
    *, grain: Grain | Literal["any"], reads: Literal["weight"] = "weight", check: Callable[..., object] | None = None
) -> Callable[[Callable[Concatenate[Tensor, P], Tensor]], Callable[P, Criterion]]: ...
@overload
def criterion(
    *, grain: Grain | Literal["any"], reads: Literal["scope"], check: Callable[..., object] | None = None
) -> Callable[
    [Callable[Concatenate[Scope, Sequence[Layer], Grain, P], Mapping[str, Tensor]]], Callable[P, Criterion]
]: ...
def criterion(
    *, grain: Grain | Literal["any"], reads: Reads = "weight", check: Callable[..., object] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Criterion]]:
    """Lift a function that scores one weight into a factory of criteria.

    Examples:
        >>> @criterion(grain="channel")
        ... def spread(rows: Tensor, power: float = 1.0) -> Tensor:
        ...     return rows.std(dim=1) ** power
        >>> spread(power=2)
        spread(power=2)
        >>> spread() == spread(1.0)
        True

    Args:
        grain: `"channel"`: the function gets `(units, rest)` and returns `(units,)`; `"element"`: it gets the weight
            and returns scores of its shape; `"any"`: it gets what is asked for, as `"scope"` functions can tell.
        reads: `"weight"`, or `"scope"` for a function of all layers at once, `fn(scope, layers, grain, **options)`
            that returns a mapping from weight names to scores.
        check: called with the options when the criterion is made; raises when they make no sense.

    Returns:
        The decorator. What it makes is called with the options of the function and returns a `Criterion`.
    """

    def lift(fn: Callable[..., Any]) -> Callable[..., Criterion]:
        signature = inspect.signature(fn)
        leading = 1 if reads == "weight" else 3
        names = list(signature.parameters)[leading:]

        @functools.wraps(fn)
        def make(*args: Any, **options: Any) -> Criterion:
            try:
                bound = signature.bind(*[None] * leading, *args, **options)
            except TypeError as error:
                raise ConfigTypeError(f"{fn.__name__}: {error}", hint=f"its options are {names}") from None
            bound.apply_defaults()
            given = tuple((name, bound.arguments[name]) for name in names)
            if check is not None:
                check(**dict(given))
            return Criterion(fn, grain, given, reads)

        return make

    return lift


def _readable(scope: Scope, layer: Layer) -> Tensor:
    """Return a weight with what is masked set to 0, half precision widened; refuse what cannot be ranked."""
    weight = scope[layer.weight].detach()
    if weight.is_meta or weight.layout != torch.strided or not weight.is_floating_point():
        found = f"{layer.weight!r} is {weight.dtype} on {weight.device} with layout {weight.layout}"
        raise ModelError(f"{found}, expected dense floating point numbers", hint="materialise or exclude it")
    if layer.weight in scope.masks:
        weight = zeroed(weight, scope.alive(layer))
    weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    if not all_finite(weight):
        raise ModelError(f"{layer.weight!r} has {non_finite(weight)}", hint="fix the values or exclude the layer")
    return weight


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; tensors of inference mode do not count it."""
    return -1 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]


def _finished(scope: Scope, layer: Layer, scores: Tensor, own: Grain, asked: Grain) -> Tensor:
    """Convert the scores to the grain asked for, and put what is gone below everything else."""
    masked = layer.weight in scope.masks
    if own == "element" and asked == "channel":
        kept = torch.where(scope.alive(layer), scores, scores.new_zeros(())) if masked else scores
        scores = unit_view(kept, layer).sum(dim=1, dtype=wide_dtype(kept)).to(kept.dtype)
    elif own == "channel" and asked == "element":
        scores = unit_values(scores, layer).expand(layer.shape)
    if masked:
        alive = scope.alive_units(layer) if asked == "channel" else scope.alive(layer)
        scores = torch.where(alive, scores, scores.new_full((), -math.inf))
    return scores.contiguous()
