"""The k-th lowest score over many tensors, found without sorting or joining them."""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fprune.errors import ScoreError

__all__ = ["Threshold", "threshold"]

_GUESSES = 4  # after as many suggestions the interval is halved, which ends after 64 passes whatever the scores are
_ROOM = 1 << 15  # scores that may be copied out, so that the threshold can be found among them
_SPARE = 8  # and of many scores as many samples; an interval holds about four samples' worth
_CPU_CHUNK = 1 << 16  # scores compared at a time, so that what a pass makes stays in the cache
_DEVICE_CHUNK = 1 << 24


@attrs.frozen
class Threshold:
    """The k-th lowest score.

    Args:
        value: the score.
        below: how many scores are lower.
        upto: how many scores are lower or equal.
    """

    value: float
    below: int
    upto: int


@attrs.frozen
class _Bracket:
    """An interval `low < rank <= high` that holds the threshold; how many scores are not above each of its ends."""

    low: int
    high: int
    below: int
    upto: int

    def narrowed(self, rank: int, count: int, k: int) -> "_Bracket":
        """Use that `count` scores are not above `rank`."""
        if count < k:
            return self if rank <= self.low else attrs.evolve(self, low=rank, below=count)
        return self if rank >= self.high else attrs.evolve(self, high=rank, upto=count)


def threshold(tensors: Sequence[Tensor], k: int) -> Threshold:
    """Return the k-th lowest score of all tensors together.

    A sample suggests an interval, one pass counts what lies below it and copies out the few scores inside, and
    the threshold is the right one of those. An interval that misses, or that holds too many, is narrowed.

    Examples:
        >>> threshold([torch.tensor([1.0, 3.0]), torch.tensor([[2.0], [1.0]])], 3)
        Threshold(value=2.0, below=2, upto=3)

    Args:
        tensors: scores of any shape and real dtype. They are compared as float32 when that holds all of them,
            else as float64.
        k: 1 to the number of scores.

    Returns:
        The threshold, with exact counts.

    Raises:
        ScoreError: fewer than `k` scores have a rank; the others are NaN.
    """
    dtype = common_dtype(tensors)
    total = sum(tensor.numel() for tensor in tensors)
    room = max(_ROOM, _SPARE * _sample_size(total))
    bracket = _Bracket(_rank(-math.inf, dtype) - 1, _rank(math.inf, dtype), 0, total)
    guesses = 0
    while bracket.high - bracket.low > 1:
        low, high = bracket.low, bracket.high
        if bracket.upto - bracket.below > room:
            low, high = _guess(tensors, dtype, bracket, k) if guesses < _GUESSES else (low, (low + high) // 2)
            guesses += 1
        below, upto, inside = _survey(tensors, dtype, (_value(low, dtype), _value(high, dtype)), room)
        if high == bracket.high and upto < bracket.upto:  # only what has no rank is missing
            raise ScoreError(f"{bracket.upto - upto} scores are NaN", hint="check the criterion for 0 / 0")
        if inside is not None and below < k <= upto:
            return _among(inside, below, k)
        bracket = bracket.narrowed(low, below, k).narrowed(high, upto, k)
    return Threshold(_value(bracket.high, dtype), bracket.below, bracket.upto)


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return float32 when it holds every value of the tensors' dtypes, else float64."""

    def fits(dtype: torch.dtype) -> bool:
        return dtype.itemsize <= (4 if dtype.is_floating_point else 2)

    return torch.float32 if all(fits(tensor.dtype) for tensor in tensors) else torch.float64


def _sample_size(total: int) -> int:
    """Return the size where sorting the sample and sorting out what it leaves open cost about the same."""
    return int(total ** (2 / 3))


def _guess(tensors: Sequence[Tensor], dtype: torch.dtype, bracket: _Bracket, k: int) -> tuple[int, int]:
    """Return the ends of an interval that holds the threshold with near certainty; if it does not, time is lost."""
    total = sum(tensor.numel() for tensor in tensors)
    stride = total // _sample_size(total) + 1
    while math.gcd(stride, 2 * 3 * 5 * 7) > 1:  # else the sample might see one corner of every kernel
        stride += 1
    sample = torch.cat([tensor.reshape(-1)[::stride].to(dtype).cpu() for tensor in tensors])
    # The lowest end of all is below -inf, where no float is: its value is NaN, and `~(x <= NaN)` holds for every x.
    inside = ~(sample <= _value(bracket.low, dtype)) & (sample <= _value(bracket.high, dtype))
    sample = sample[inside].sort().values
    size, part = len(sample), (k - bracket.below) / (bracket.upto - bracket.below)
    if size < 64:
        return bracket.low, (bracket.low + bracket.high) // 2
    spread = 4.0 * math.sqrt(size * part * (1.0 - part)) + 1.0  # four standard deviations of the sample's quantile
    first, last = (min(max(int(part * size + side), 0), size - 1) for side in (-spread, spread))
    low, high = _rank(sample[first].item(), dtype) - 1, _rank(sample[last].item(), dtype)
    if (low, high) == (bracket.low, bracket.high):
        return low, (low + high) // 2
    return low, high


def _survey(
    tensors: Sequence[Tensor], dtype: torch.dtype, ends: tuple[float, float], room: int
) -> tuple[int, int, list[Tensor] | None]:
    """Count the scores not above each end, and copy out those between, unless they are more than `room`."""
    below = between = 0
    inside: list[Tensor] | None = []
    for chunk in _chunks(tensors, dtype):
        lower, count, found = _part(chunk, ends, inside is not None)
        below, between = below + lower, between + count
        if inside is not None and found is not None:
            inside.append(found)
        if between > room:
            inside = None
    return below, below + between, inside


def _part(chunk: Tensor, ends: tuple[float, float], copy: bool) -> tuple[int, int, Tensor | None]:
    """Survey one chunk: how many are not above the low end, how many are between, and those if `copy`."""
    low, high = ends
    if chunk.device.type != "cpu":
        lower = chunk <= low
        middle = (chunk <= high).logical_xor_(lower)
        return int(lower.count_nonzero()), int(middle.count_nonzero()), chunk[middle] if copy else None
    # The same in numpy, which compares and picks about four times faster on a CPU.
    values: NDArray[Any] = chunk.numpy(force=True)
    low_values = values <= low
    middle_values = (values <= high) ^ low_values
    found = torch.from_numpy(values[middle_values]) if copy else None
    return int(np.count_nonzero(low_values)), int(np.count_nonzero(middle_values)), found


def _among(inside: list[Tensor], below: int, k: int) -> Threshold:
    """Return the threshold, which is one of these scores; `below` scores are lower than all of them."""
    joined = torch.cat([part.cpu() for part in inside])
    value = joined.kthvalue(k - below).values.item()
    lower, upto = (int(found.count_nonzero()) for found in (joined < value, joined <= value))
    return Threshold(value, below + lower, below + upto)


def _chunks(tensors: Sequence[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    for tensor in tensors:
        size = _CPU_CHUNK if tensor.device.type == "cpu" else _DEVICE_CHUNK
        for chunk in torch.split(tensor.reshape(-1), size):
            yield chunk.to(dtype)


# Floats as integers in the same order: the bit pattern, with negative numbers mirrored, so that -0.0 and 0.0 are both
# 0. An interval of integers can be halved until it is empty, which intervals of floats do not do in a bounded time.


def _codes(dtype: torch.dtype) -> tuple[str, str]:
    return ("<f", "<i") if dtype == torch.float32 else ("<d", "<q")


def _rank(value: float, dtype: torch.dtype) -> int:
    real, whole = _codes(dtype)
    bits: int = struct.unpack(whole, struct.pack(real, abs(value)))[0]
    return -bits if value < 0 else bits


def _value(rank: int, dtype: torch.dtype) -> float:
    real, whole = _codes(dtype)
    found: float = struct.unpack(real, struct.pack(whole, abs(rank)))[0]
    return -found if rank < 0 else found
