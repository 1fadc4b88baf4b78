"""Every layer by itself."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from fprune.allocate.budget import Share, local_rows, masks_of, natural, refuses_budgets, removals, shares
from fprune.allocate.needing import needing
from fprune.allocate.selection import lowest
from fprune.allocate.ties import told
from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks
from fprune.scope import Scope

__all__ = ["per_layer"]


@needing(refuses=refuses_budgets("per_layer"))
def per_layer(criterion: Criterion, params: Mapping[str, Tensor], config: Config) -> Masks:
    """Remove the same fraction from each layer that a rule selects.

    `floor(s * n)` of a layer's n elements or channels go, those with the lowest scores, equal ones by index. What a
    compaction removed and what is masked counts.

    Examples:
        >>> import torch
        >>> from fprune.criteria import channel_norm, magnitude
        >>> params = {"w": torch.tensor([[3.0, -1.0], [0.5, 0.5]])}
        >>> per_layer(channel_norm(p=1), params, Config(0.5))
        Masks(w=1/2 channels)
        >>> per_layer(magnitude(), params, Config(0.75))["w"]
        tensor([[ True, False],
                [False, False]])

    Args:
        criterion: what scores; its grain decides whether elements or channels go.
        params: name -> weight; a `Model` is one.
        config: what to prune and how much, with rules that give `sparsity`.

    Returns:
        One bool mask for each selected weight; channels are masked in the bias too.

    Raises:
        ConfigError: a rule has `total_sparsity`, selects nothing, or contradicts its own bound.
        ModelError: a weight is not finite.
        ScoreError: a score is not finite.
    """
    scope, grain = Scope.of(params), natural(criterion)
    rows = local_rows(scope, config, "per_layer")

    def removed() -> Iterator[tuple[Share, Tensor]]:
        for share in shares(criterion, scope, rows, grain):
            k = share.present(removals(share.row.sparsity or 0.0, share.total))
            yield share, lowest({share.name: share.scores}, k)[share.name]

    return masks_of(told(removed()), grain)
