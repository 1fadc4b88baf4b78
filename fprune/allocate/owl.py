"""Layers with more outliers keep more."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import final, overload

import attrs
from torch import Tensor

from fprune.allocate.budget import Share
from fprune.allocate.fill import along
from fprune.allocate.parameters import refuses_beyond
from fprune.allocate.pool import Pool, pooled
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.errors import ConfigError, ConfigTypeError
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["Owl", "owl"]


def _positive(instance: object, attribute: "attrs.Attribute[float]", value: object) -> None:
    expected = f"owl: expected a positive number for {attribute.name}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigTypeError(f"{expected} ({type(value).__name__})", hint="owl(m=5.0, lam=0.08) is the paper's")
    if not 0 < float(value) < math.inf:
        raise ConfigError(expected, hint="owl(m=5.0, lam=0.08) is the paper's")


@final
@attrs.frozen(repr=False)
class Owl:
    """Spread the amount of a rule by outliers: layers with more scores far above their mean keep more.

    `D_l` is the share of a layer's scores above `m * mean`, `n_l = 2 lam (D_l - min D) / (max D - min D)`, and the
    layer's sparsity is `c - n_l`, clipped to [0, 1). The level c is such that `floor(s * n)` of the rule's n elements
    or channels go: for layers of equal size `s + mean n`, as in the paper. Within a layer the lowest scores go. The
    paper's scores are |weight| times the norm of its input. Both `sparsity` and `total_sparsity` give the amount.

    Examples:
        >>> import torch
        >>> from fprune import level
        >>> from fprune.allocate import owl
        >>> even = torch.linspace(1.0, 2.0, 100).reshape(10, 10)
        >>> masks = level(owl).masks({"even": even, "peaked": torch.where(even > 1.9, 90.0, even)}, Config(0.5))
        >>> [int(masks[name].sum()) for name in ("even", "peaked")]
        [42, 58]
        >>> owl, owl(lam=0.1)
        (owl, owl(lam=0.1))

    Args:
        m: how many times the mean an outlier is, positive.
        lam: half of how far apart the sparsities of the layers are, positive.

    References:
        Yin et al, `Outlier Weighed Layerwise Sparsity <https://arxiv.org/abs/2310.05175>`_, 2024
    """

    m: float = attrs.field(default=5.0, validator=_positive)
    lam: float = attrs.field(default=0.08, validator=_positive)

    @overload
    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config, /) -> Masks: ...
    @overload
    def __call__(self, /, *, m: float = 5.0, lam: float = 0.08) -> "Owl": ...
    def __call__(
        self,
        criterion: Criterion | None = None,
        params: Mapping[str, Tensor] | None = None,
        config: Config | None = None,
        /,
        *,
        m: float = 5.0,
        lam: float = 0.08,
    ) -> "Masks | Owl":
        """Return one bool mask for each selected weight; or, called with options alone, the allocation with these."""
        if criterion is None or params is None or config is None:
            return Owl(m, lam)
        return pooled("owl", self._mark, criterion, params, config)

    def refuses(self, scope: Scope, config: Config) -> None:
        """Refuse a budget of FLOPs, and one that is out of reach."""
        refuses_beyond("owl")(scope, config)

    def _mark(self, pool: Pool, count: int) -> dict[str, Tensor]:
        outliers = [_outliers(share, self.m) for share in pool.shares]
        low, span = min(outliers), max(outliers) - min(outliers)
        kept = [2 * self.lam * (part - low) / span if span else 0.0 for part in outliers]
        return along(pool, count, lambda level: [level - more for more in kept], (-1.0, 2.0 + 2 * self.lam))

    def __repr__(self) -> str:
        given = {"m": (self.m, 5.0), "lam": (self.lam, 0.08)}
        told = ", ".join(f"{name}={value!r}" for name, (value, usual) in given.items() if value != usual)
        return f"owl({told})" if told else "owl"


owl = Owl()


def _outliers(share: Share, m: float) -> float:
    """The fraction of a layer's scores that are above `m` times their mean; of those that are not masked."""
    alive = share.scores[share.scores > -math.inf].double()
    return float((alive > m * alive.mean()).double().mean()) if alive.numel() else 0.0
