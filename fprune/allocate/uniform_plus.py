"""One sparsity for all layers but the first and the last."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fprune.allocate.budget import Share
from fprune.allocate.fill import along
from fprune.allocate.needing import needing
from fprune.allocate.parameters import refuses_beyond
from fprune.allocate.pool import Pool, pooled
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks

__all__ = ["uniform_plus"]

_LAST = 0.8


def _ends(shares: Sequence[Share]) -> dict[str, float]:
    """Bounds of the last layer and, also if it is the same, of the first."""
    return {shares[-1].name: _LAST, shares[0].name: 0.0}


@needing(refuses=refuses_beyond("uniform_plus"))
def uniform_plus(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Leave the first layer dense, take at most 80 % of the last, and the rest evenly from those between.

    `floor(s * n)` of all n elements or channels of a rule's layers go. The layers are in the order of the model's
    modules, or of a plain mapping. One sparsity c holds for every layer, but for the first, which keeps all, and the
    last, which loses `min(c, 0.8)`; c is such that the total is met. Within a layer the lowest scores go. Both
    `sparsity` and `total_sparsity` give the amount of a rule.

    Examples:
        >>> import torch
        >>> from fprune import level
        >>> params = {name: torch.arange(100.0).view(10, 10) for name in ("first", "second", "third", "last")}
        >>> masks = level(uniform_plus).masks(params, Config(0.69))
        >>> {name: 100 - int(masks[name].sum()) for name in params}
        {'first': 0, 'second': 98, 'third': 98, 'last': 80}

    Args:
        criterion: what scores; its grain decides whether elements or channels go.
        params: name -> weight; a `Model` is one.
        config: what to prune and how much.

    Returns:
        One bool mask for each selected weight; channels are masked in the bias too.

    Raises:
        ConfigError: the bounds do not allow the amount; the message has the amount they allow.
        ModelError: a weight is not finite.
        ScoreError: a score is not finite.

    References:
        Gale et al, `The State of Sparsity in Deep Neural Networks <https://arxiv.org/abs/1902.09574>`_, 2019
    """
    return pooled("uniform_plus", _mark, criterion, params, config, _ends)


def _mark(pool: Pool, count: int) -> dict[str, Tensor]:
    return along(pool, count, lambda level: [level] * len(pool.shares), (0.0, 1.0))
