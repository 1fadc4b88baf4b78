"""Layers whose scores are all equal: which of their units go is decided by index, and that is worth a warning."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from fprune.allocate.budget import Share
from fprune.errors import TiedScores
from fprune.layers import Layer

__all__ = ["arbitrary", "told", "warn"]

_HEAD = 64
"""Scores that are looked at first: they differ in nearly every layer, and no other one has to be read then."""


def arbitrary(scores: Tensor, gone: Tensor) -> bool:
    """Whether some go and some stay although their scores are all equal.

    Examples:
        >>> import torch
        >>> gone = torch.tensor([True, False, False])
        >>> arbitrary(torch.tensor([1.0, 1.0, 1.0]), gone), arbitrary(torch.tensor([1.0, 1.0, 2.0]), gone)
        (True, False)
        >>> arbitrary(torch.tensor([float("-inf"), 1.0, 1.0]), gone)
        False

    Args:
        scores: of any shape; what was gone before has `-inf`.
        gone: bool, of the same shape: true where one goes, or was gone before.
    """
    if not _equal(scores.flatten()[:_HEAD]) or not _equal(scores):
        return False
    going = int(gone[scores > -math.inf].count_nonzero())
    return 0 < going < int((scores > -math.inf).count_nonzero())


def _equal(scores: Tensor) -> bool:
    """Whether all that are there are equal; also when none is."""
    if not scores.numel():
        return True
    return bool(((scores == scores.max()) | (scores == -math.inf)).all())


def told(marked: Iterable[tuple[Share, Tensor]]) -> Iterator[tuple[Layer, Tensor]]:
    """Pass on what goes of each layer, and warn at the end of those in which nothing but the index decided it.

    Args:
        marked: a layer with its scores, and true where one goes.

    Yields:
        The layer, and true where one goes.
    """
    tied: list[str] = []
    for share, gone in marked:
        tied += [share.name] if arbitrary(share.scores, gone) else []
        yield share.row.layer, gone
    warn(tied)


def warn(names: Sequence[str]) -> None:
    """Warn of some layers or families, all of them in one warning; no names, no warning.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn(["a.weight", "b.weight"])
        >>> print(caught[0].message)
        FP031 all scores of 'a.weight', 'b.weight' are equal: which units go is decided by their index
        hint: prune by another criterion, or train before; warnings.simplefilter('ignore', TiedScores) accepts it

    Args:
        names: of the weights or families.
    """
    if names:
        rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
        shown = ", ".join(map(repr, names[:4])) + rest
        found = f"FP031 all scores of {shown} are equal: which units go is decided by their index"
        hint = "prune by another criterion, or train before; warnings.simplefilter('ignore', TiedScores) accepts it"
        warnings.warn(TiedScores(found, hint=hint), stacklevel=2)
