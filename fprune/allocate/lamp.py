"""Scores relative to what is left of their layer, and then one threshold for all layers."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import final, overload

import attrs
import torch
from torch import Tensor

from fprune.allocate.budget import Share
from fprune.allocate.globally import bounded
from fprune.allocate.parameters import refuses_beyond
from fprune.allocate.pool import Pool, pooled
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.criteria.precision import wide_dtype
from fprune.errors import ConfigError, ConfigTypeError, ScoreError
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["Lamp", "lamp"]


def _check_power(instance: object, attribute: object, power: object) -> None:
    expected = f"lamp: expected a positive power, got {power!r}"
    if isinstance(power, bool) or not isinstance(power, Real):
        raise ConfigTypeError(f"{expected} ({type(power).__name__})", hint="lamp(power=1) for scores that are squares")
    if not 0 < float(power) < math.inf:
        raise ConfigError(expected, hint="lamp(power=1) for scores that are squares")


@final
@attrs.frozen(repr=False)
class Lamp:
    """Compare scores over layers relative to all that is as large in their own layer.

    `lamp(u) = score(u)^p / sum of score(v)^p over all v of the layer with score(v) >= score(u)`, equal scores in the
    order of their index; then the `floor(s * n)` lowest of all layers of a rule together go. The last one of a layer
    has the score 1, the largest there is, so no layer is emptied. With `level`, whose scores are |w|, and the power 2
    this is the paper's; a criterion whose scores are squares already takes `lamp(power=1)`.

    Examples:
        >>> from fprune import globally, level
        >>> params = {"small": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "large": torch.tensor([[11.0, 12.0, 13.0, 14.0]])}
        >>> masks = level(lamp).masks(params, Config(0.5))
        >>> masks["small"].int().tolist(), masks["large"].int().tolist()
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]])
        >>> lamp, lamp(power=1)
        (lamp, lamp(power=1))

    Args:
        power: p, positive.

    References:
        Lee et al, `Layer-adaptive Sparsity for the Magnitude-based Pruning <https://arxiv.org/abs/2010.07611>`_, 2021
    """

    power: float = attrs.field(default=2, validator=_check_power)

    @overload
    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config, /) -> Masks: ...
    @overload
    def __call__(self, /, *, power: float = 2) -> "Lamp": ...
    def __call__(
        self,
        criterion: Criterion | None = None,
        params: Mapping[str, Tensor] | None = None,
        config: Config | None = None,
        /,
        *,
        power: float = 2,
    ) -> "Masks | Lamp":
        """Return one bool mask for each selected weight; or, called with an option alone, the allocation with it."""
        if criterion is None or params is None or config is None:
            return Lamp(power)
        return pooled("lamp", self._mark, criterion, params, config)

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget of FLOPs, and one that is out of reach."""
        refuses_beyond("lamp")(scope, config)

    def _mark(self, pool: Pool, count: int) -> dict[str, Tensor]:
        return bounded({share.name: _relative(share, self.power) for share in pool.shares}, count, pool.limits)

    def __repr__(self) -> str:
        return "lamp" if self.power == 2 else f"lamp(power={self.power!r})"


lamp = Lamp()


def _relative(share: Share, power: float) -> Tensor:
    """Each score over the sum of those from it on; what is masked stays below everything."""
    scores = share.scores.reshape(-1)
    wide = scores.to(wide_dtype(scores))
    masked = scores == -math.inf
    if bool((wide < 0).logical_and(~masked).any()):
        found = f"{share.name!r} has negative scores, and a power of them would turn their order round"
        raise ScoreError(found, hint="use lamp with criteria of sizes, such as level, l1 and l2, or another allocation")
    largest = wide.max().clamp(min=torch.finfo(scores.dtype).tiny)
    raised = (torch.where(masked, 0.0, wide) / largest) ** power  # a ratio of powers: the scale does not matter
    ordered, order = raised.sort(stable=True)
    tails = ordered.flip(0).cumsum(0).flip(0)
    relative = torch.zeros_like(wide).scatter_(0, order, torch.where(ordered > 0, ordered / tails, 0.0))
    return torch.where(masked, -math.inf, relative).reshape(share.scores.shape)
