"""What a file of tensors says about itself before they come: names, dtypes, shapes, and where the bytes stand."""

import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, final

import attrs
import torch
from torch import Tensor

from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.text import dumps
from fprune.tree import brief

__all__ = ["Span", "header_bytes", "in_order", "metadata_in", "spans_in"]

# Widest first, in the order in which the format's own library lays tensors out: every tensor starts at a multiple of
# its element's size, and equal tensors have equal bytes whoever writes them.
_DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ORDER = {dtype: position for position, dtype in enumerate(_DTYPES.values())}
_METADATA = "__metadata__"
_MOST_DIMENSIONS = 64


@final
@attrs.frozen
class Span:
    """What a file says about one of its tensors.

    Args:
        name: its name.
        dtype: its dtype.
        shape: its shape.
        begin: where its bytes begin, counted from the end of the header.
        end: where they end.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def in_order(tensors: Mapping[str, Tensor], where: str) -> list[tuple[str, Tensor]]:
    """Put tensors into the order in which a file holds them.

    Raises:
        CheckpointError: one of them cannot be in a file.
    """
    for name, tensor in tensors.items():
        _refuse_unwritable(name, tensor, where)
    return sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))


def header_bytes(ordered: Iterable[tuple[str, Tensor]], where: str, metadata: Mapping[str, str]) -> bytes:
    """Write the header of tensors in their order, preceded by its length.

    Examples:
        >>> header_bytes([("w", torch.zeros(2))], "state.safetensors", {})[8:]
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = dumps(header, where, sort_keys=False)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def metadata_in(header: Entry) -> dict[str, str]:
    """The texts that stand in a header besides the tensors."""
    return header.maybe(_METADATA, lambda entry: entry.mapped(Entry.text)) or {}


def spans_in(header: Entry, size: int) -> tuple[Span, ...]:
    """The tensors that a header tells of, in the order of their bytes.

    Args:
        header: what the JSON stands for.
        size: how many bytes follow it; the tensors fill them without a gap.

    Raises:
        CheckpointError: they do not, or something about one of them is wrong.
    """
    found = [_span(name, entry) for name, entry in header.items() if name != _METADATA]
    found.sort(key=attrgetter("begin", "end"))
    _refuse_gaps(found, size, header.file)
    return tuple(found)


def _refuse_unwritable(name: str, tensor: Tensor, where: str) -> None:
    if name == _METADATA:
        raise damaged(where, f"a tensor cannot have the name {name!r}", hint="the format keeps this name for itself")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        what = "a meta tensor" if tensor.is_meta else "quantized" if tensor.is_quantized else f"of {tensor.layout}"
        raise damaged(where, f"cannot keep {name!r}, which is {what}", hint="make it a dense tensor with values")
    if tensor.dtype not in _CODES:
        reason = f"cannot keep {name!r}: {brief(tensor)} has no form in a file"
        raise damaged(where, reason, hint="the widest are float64, int64 and complex64")


def _span(name: str, entry: Entry) -> Span:
    """One tensor as the header says it is; the bytes must be as many as the shape asks for."""
    entry.only("dtype", "shape", "data_offsets")
    code = entry["dtype"].text()
    if code not in _DTYPES:
        entry["dtype"].refuse(f"unknown dtype {code[:40]!r}")
    shape = entry["shape"].each(lambda size: size.integer(0, 2**63 - 1))
    if len(shape) > _MOST_DIMENSIONS:
        entry["shape"].refuse(f"{len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
    offsets = entry["data_offsets"].each(lambda offset: offset.integer(0, 2**63 - 1))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        entry["data_offsets"].refuse(f"expected a begin and an end, got {[*offsets][:3]}")
    width = _DTYPES[code].itemsize
    # Zeros aside: torch multiplies sizes to strides even where there are no elements.
    if math.prod(size or 1 for size in shape) * width >= 2**63:
        entry["shape"].refuse(f"{[*shape][:8]} is more than there can be")
    if math.prod(shape) * width != offsets[1] - offsets[0]:
        entry.refuse(f"{offsets[1] - offsets[0]} bytes, expected {math.prod(shape) * width} for {code}{[*shape][:8]}")
    return Span(name, _DTYPES[code], shape, *offsets)


def _refuse_gaps(found: Iterable[Span], size: int, where: str) -> None:
    end = 0
    for span in found:
        if span.begin != end:
            kind = "a gap" if span.begin > end else "an overlap"
            raise damaged(where, f"{kind} before {span.name[:80]!r}: it begins at {span.begin}, expected {end}")
        end = span.end
    if end != size:
        raise damaged(where, f"{size} bytes of tensors, expected {end}")
