"""The exact selection of the k lowest scores: over many tensors together, or in each row of one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fprune.allocate.threshold import Threshold, common_dtype, threshold
from fprune.errors import ConfigError, ScoreError

__all__ = ["lowest", "lowest_in_rows"]

_SHORT = 8  # rows up to this length are ranked by comparing all pairs


def lowest(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Mark the `k` lowest scores of all tensors together.

    Equal scores go by (name, flat index): names in sorted order, elements in row-major order. So the result
    depends on neither the order of the mapping nor the memory layout, and the count is always exactly `k`.
    The tensors are never joined: a mask each and a few per cent of the scores is all that is made.

    Examples:
        >>> marked = lowest({"b": torch.tensor([1.0, 3.0]), "a": torch.tensor([[2.0], [1.0]])}, 2)
        >>> marked["a"].flatten().tolist(), marked["b"].tolist()
        ([False, True], [True, False])
        >>> lowest({"w": torch.ones(4)}, 3)["w"].tolist()
        [True, True, True, False]

    Args:
        scores: name -> scores of any shape and real dtype, `-inf` and `inf` included. Integers of more than
            53 bits are compared after rounding.
        k: how many to mark, 0 to the number of scores.

    Returns:
        name -> bool tensor of the scores' shape and device, true where the score is among the `k` lowest.

    Raises:
        ConfigError: `k` is negative or more than there are.
        ScoreError: fewer than `k` scores have a rank; the others are NaN.
    """
    names = sorted(scores)
    tensors = [scores[name].detach() for name in names]
    total = sum(tensor.numel() for tensor in tensors)
    if not 0 <= k <= total:
        raise ConfigError(f"cannot select {k} of {total} scores", hint="the count must be between 0 and all of them")
    if k in (0, total):
        return {name: torch.full_like(scores[name], k > 0, dtype=torch.bool) for name in names}
    marked = _marked(tensors, threshold(tensors, k), k)
    found = sum(int(mask.count_nonzero()) for mask in marked)
    if found != k:
        raise ScoreError(f"selected {found} scores in place of {k}", hint="did the scores change meanwhile?")
    return dict(zip(names, marked, strict=True))


def _marked(tensors: Sequence[Tensor], cut: Threshold, k: int) -> list[Tensor]:
    """Mark everything below the threshold, and the first of what is equal to it."""
    dtype = common_dtype(tensors)
    ties = k - cut.below
    marked: list[Tensor] = []
    for tensor in tensors:
        values = tensor.to(dtype).contiguous()
        if cut.upto == k:
            marked.append(values <= cut.value)
            continue
        lower = values < cut.value
        if ties:
            equal = values == cut.value
            end = _end(equal.view(-1), ties)
            equal.view(-1)[end:] = False
            ties -= int(equal.count_nonzero())
            lower |= equal
        marked.append(lower)
    return marked


def _end(flags: Tensor, count: int) -> int:
    """Return the index after the `count`-th true flag, or the length when there are not as many."""
    start = 0
    for part in torch.split(flags, 1 << 20):  # the indices of all true flags at once would take eight bytes each
        found = int(part.count_nonzero())
        if found >= count:
            return start + int(part.nonzero()[count - 1]) + 1
        start, count = start + len(part), count - found
    return start


def lowest_in_rows(scores: Tensor, k: Tensor) -> Tensor:
    """Mark the `k[i]` lowest scores of each row `i`; equal scores go by index.

    Examples:
        >>> lowest_in_rows(torch.tensor([[2.0, 1.0, 1.0], [0.0, 0.0, 5.0]]), torch.tensor([1, 2])).int()
        tensor([[0, 1, 0],
                [1, 1, 0]], dtype=torch.int32)

    Args:
        scores: `(rows, size)`, without NaN.
        k: int64 `(rows,)`, each in `[0, size]`, on the scores' device.

    Returns:
        Bool, `(rows, size)`.
    """
    size = scores.shape[1]
    marked = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    place = torch.arange(size, device=scores.device)
    step = max(1, (1 << (18 if size <= _SHORT else 22)) // max(1, size))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        if size <= _SHORT:
            marked[part] = (_ranks(scores[part].T.contiguous()) < k[part]).T
        else:
            order = scores[part].sort(dim=1, stable=True).indices
            marked[part].scatter_(1, order, place < k[part, None])
    return marked


def _ranks(columns: Tensor) -> Tensor:
    """Rank the entries of each column, equal ones by row; for a few rows much faster than to sort."""
    ranks = torch.zeros(columns.shape, dtype=torch.uint8, device=columns.device)
    for first in range(len(columns)):
        for second in range(first + 1, len(columns)):
            lower = columns[second] < columns[first]
            ranks[first] += lower
            ranks[second] += ~lower
    return ranks
