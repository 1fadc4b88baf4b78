"""Named tensors in one file: the safetensors format, written from the tensors' own memory and read into fresh tensors.

A file is the length of the header (8 bytes, little-endian), the header, and the tensors' bytes without a gap. The
header is JSON: name -> dtype, shape and where the bytes stand. Nothing in it is code, and no part of it names a file.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, final

import attrs
import torch
from torch import Tensor

from fprune.checkpoint.entry import damaged
from fprune.checkpoint.header import Span, header_bytes, in_order, metadata_in, spans_in
from fprune.checkpoint.order import orders, reordered
from fprune.checkpoint.text import LIMIT, loads


class Source(Protocol):
    """A binary file that can be read into memory which is there already."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to a position; returns it."""
        ...

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a buffer, or as much of it as comes at once; returns how much that was."""
        ...


def parts(tensors: Mapping[str, Tensor], where: str, *, metadata: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Make the buffers that, one after the other, are a file of these tensors.

    A contiguous tensor in main memory is given out as it stands there, others are copied one at a time. An order of
    dimensions other than the usual one, such as channels last, is told in the header.

    Examples:
        >>> data = b"".join(parts({"w": torch.zeros(2)}, "state.safetensors"))
        >>> len(data), data[8:-8]
        (72, b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ')

    Args:
        tensors: name -> tensor, dense.
        where: the file, for errors.
        metadata: texts that stand in the header.

    Returns:
        Buffers of bytes, each valid until the next is asked for. What cannot be written is refused before the first.

    Raises:
        CheckpointError: the format has no such dtype, or a tensor has no memory to write.
    """
    ordered = in_order(tensors, where)
    texts = {**orders(tensors), **(metadata or {})}
    return _buffers(header_bytes(ordered, where, texts), [tensor for _, tensor in ordered])


def read(source: Source, where: str) -> dict[str, Tensor]:
    """Read a file of tensors, each into memory of its own.

    Examples:
        >>> import io
        >>> file = io.BytesIO(b"".join(parts({"w": torch.ones(2)}, "state.safetensors")))
        >>> read(file, "state.safetensors")
        {'w': tensor([1., 1.])}

    Args:
        source: the file.
        where: its name, for errors.

    Returns:
        Name -> tensor, sorted by name.

    Raises:
        CheckpointError: the file is anything but what `parts` makes: of a wrong size, with gaps, overlaps, unknown
            dtypes.
    """
    file = _Bytes(source, where)
    found, texts = _opened(file)
    tensors = {span.name: _tensor(span, file) for span in found}
    return dict(sorted(reordered(tensors, texts, where).items()))


def spans(source: Source, where: str) -> tuple[tuple[Span, ...], dict[str, str]]:
    """Read what a file says about its tensors, in the order of their bytes, and its metadata, but no tensor.

    Examples:
        >>> import io
        >>> file = io.BytesIO(b"".join(parts({"w": torch.ones(2)}, "state.safetensors", metadata={"format": "1"})))
        >>> spans(file, "state.safetensors")
        ((Span(name='w', dtype=torch.float32, shape=(2,), begin=0, end=8),), {'format': '1'})

    Args:
        source: the file.
        where: its name, for errors.

    Raises:
        CheckpointError: as `read` does.
    """
    return _opened(_Bytes(source, where))


def _buffers(header: bytes, tensors: list[Tensor]) -> Iterator[Any]:
    yield header
    for tensor in tensors:
        if tensor.numel():
            yield _memory(tensor)


def _memory(tensor: Tensor) -> Any:
    """The bytes of a tensor, without a copy where that can be."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # One element is contiguous with any stride, but bytes are only seen through a stride of 1.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().data


@final
@attrs.frozen
class _Bytes:
    """The bytes of a file in their order; what goes wrong is told with the file's name."""

    source: Source
    where: str

    def size(self) -> int:
        with self._reading():
            size = self.source.seek(0, 2)
            self.source.seek(0)
            return size

    def fill(self, buffer: Any) -> None:
        view, done = memoryview(buffer), 0
        while done < len(view):
            with self._reading():
                n = self.source.readinto(view[done:])
            if not n:
                raise damaged(self.where, "it ends before its last tensor does")
            done += n

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            raise damaged(self.where, reason, hint="the disk or the network fails") from error


def _opened(file: _Bytes) -> tuple[tuple[Span, ...], dict[str, str]]:
    """Read the header; what follows it are the bytes of the tensors in the order of the spans."""
    size = file.size()
    if size < 10:
        raise damaged(file.where, f"{size} bytes, too few for a file of tensors")
    prefix = bytearray(8)
    file.fill(prefix)
    length = int.from_bytes(prefix, "little")
    if length > min(LIMIT, size - 8):
        raise damaged(file.where, f"a header of {length} bytes, expected at most {min(LIMIT, size - 8)}")
    text = bytearray(length)
    file.fill(text)
    if not text.startswith(b"{"):
        raise damaged(file.where, "the header does not begin with '{'")
    header = loads(bytes(text), file.where)
    return spans_in(header, size - 8 - length), metadata_in(header)


def _tensor(span: Span, file: _Bytes) -> Tensor:
    if span.begin == span.end:
        return torch.empty(span.shape, dtype=span.dtype, device="cpu")
    raw = torch.empty(span.end - span.begin, dtype=torch.uint8, device="cpu")
    file.fill(raw.numpy().data)
    if span.dtype is torch.bool and int(raw.max()) > 1:
        raise damaged(file.where, f"{span.name[:80]!r} is neither true nor false: {int(raw.max())}")
    return raw.view(span.dtype).view(span.shape)
