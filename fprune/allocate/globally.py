"""The layers of a rule compete for one budget."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from fprune.allocate.budget import Share, layer_rows, masks_of, natural, removals, shares
from fprune.allocate.selection import lowest
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.errors import ConfigError
from fprune.layers import Layer
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["globally"]


def globally(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Remove a fraction of all layers of a rule together, wherever the scores are lowest.

    `floor(s * n)` go, where n counts the elements or channels of all layers of the rule; equal scores go by name and
    index. No layer loses more than `max_sparsity_per_layer` of its own, and every layer keeps at least one. Both
    `sparsity` and `total_sparsity` give the rule's budget; rules do not share theirs.

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
    scope, grain = Scope.of(params), natural(criterion)
    rows = layer_rows(scope, config, "globally")
    found = list(shares(criterion, scope, rows, grain))
    removed: list[tuple[Layer, Tensor]] = []
    for rule in sorted({-1 if row.rule is None else row.rule for row in rows}):
        group = [share for share in found if share.row.rule == rule]
        marked = _shared(rule, group)
        removed += [(share.row.layer, marked[share.name]) for share in group]
    return masks_of(removed, grain)


def _shared(rule: int, group: Sequence[Share]) -> dict[str, Tensor]:
    """Mark what a rule removes of its layers."""
    total, gone = sum(share.total for share in group), sum(share.gone for share in group)
    limits = {share.name: _limit(share) for share in group}
    row = group[0].row
    sparsity = next(amount for amount in (row.total, row.sparsity) if amount is not None)
    wanted = math.floor(sparsity * total + 1e-9)
    reachable = gone + sum(limits.values())
    if wanted > reachable:
        most = math.floor(reachable / total * 1e4) / 1e4
        bounds = "every layer keeps one"
        if any(share.row.cap is not None for share in group):
            bounds = "max_sparsity_per_layer bounds them, and " + bounds
        found = f"rule {rule}: sparsity {sparsity:g} over {len(group)} layers removes {wanted} of {total}, and {bounds}"
        raise ConfigError(f"{found}: at most {reachable}", hint=f"ask for {most:g}, or raise max_sparsity_per_layer")
    budget = max(wanted - gone, sum(share.dead for share in group))
    return _bounded({share.name: share.scores for share in group}, budget, limits)


def _limit(share: Share) -> int:
    """Return how many of the present ones a layer may lose; what is masked stays masked."""
    cap = 1.0 if share.row.cap is None else share.row.cap
    return share.present(removals(cap, share.total))


def _bounded(scores: Mapping[str, Tensor], k: int, limits: Mapping[str, int]) -> dict[str, Tensor]:
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
