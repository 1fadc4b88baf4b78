"""The layers of a rule compete for one budget."""

from collections.abc import Mapping

from torch import Tensor

from fprune.allocate.needing import needing
from fprune.allocate.parameters import refuses_beyond
from fprune.allocate.pool import Pool, pooled
from fprune.allocate.selection import lowest
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks

__all__ = ["bounded", "globally"]


@needing(refuses=refuses_beyond("globally"))
def globally(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Remove a fraction of all layers of a rule together, wherever the scores are lowest.

    `floor(s * n)` go, where n counts the elements or channels of all layers of the rule; equal scores go by name and
    index. No layer loses more than `max_sparsity_per_layer` of its own, and every layer keeps at least one. Both
    `sparsity` and `total_sparsity` give the rule's amount; rules do not share theirs. A `budget={"params": .5}` counts
    the parameters of the whole model, biases and other layers included: the fewest go that make up half of them.

    Examples:
        >>> import torch
        >>> from fprune.criteria import magnitude
        >>> params = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
        >>> masks = globally(magnitude(), params, Config([{"total_sparsity": 0.5}]))
        >>> masks["a"].tolist(), masks["b"].tolist()
        ([[False, True]], [[False, True]])

    Here layer `a` keeps its best weight, although both of its weights are smaller than those of `b`.

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
    """
    return pooled("globally", _mark, criterion, params, config)


def _mark(pool: Pool, count: int) -> dict[str, Tensor]:
    return bounded({share.name: share.scores for share in pool.shares}, count, pool.limits)


def bounded(scores: Mapping[str, Tensor], k: int, limits: Mapping[str, int]) -> dict[str, Tensor]:
    """Mark the `k` lowest scores, where a tensor that has reached its limit is passed over.

    A tensor that is over its limit without bounds is at its limit with them: the others can only take more. So those
    are settled, and the rest of the budget goes to the rest, until none is over.
    """
    settled: dict[str, Tensor] = {}
    while True:
        rest = {name: values for name, values in scores.items() if name not in settled}
        marked = lowest(rest, k)
        over = [name for name, mask in marked.items() if int(mask.count_nonzero()) > limits[name]]
        if not over:
            return {**settled, **marked}
        settled |= {name: lowest({name: scores[name]}, limits[name])[name] for name in over}
        k -= sum(limits[name] for name in over)
