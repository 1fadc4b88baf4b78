import io
import json
import os
import subprocess
import sys
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune.checkpoint.tensors import parts, read, spans
from fprune.equality import same
from fprune.errors import CheckpointError

DTYPES = [
    getattr(torch, name)
    for name in """float64 float32 float16 bfloat16 complex64 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool
    float8_e4m3fn float8_e5m2 float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz""".split()
]
KNOWN_TO_THEIR_READER = [dtype for dtype in DTYPES if dtype is not torch.float8_e8m0fnu]


def filled(dtype, shape, seed=0):
    """A tensor of arbitrary bits, among them nan, infinity and negative zero."""
    n = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 256, (n,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return (raw % 2).view(torch.bool).view(shape) if dtype is torch.bool else raw.view(dtype).view(shape)


def packed(tensors, **options):
    return b"".join(bytes(part) for part in parts(tensors, "a.safetensors", **options))


def opened(data, **options):
    return read(io.BytesIO(data), "a.safetensors", **options)


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
named = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda name: name != "__metadata__"),
    st.builds(filled, st.sampled_from(KNOWN_TO_THEIR_READER), shapes, st.integers(0, 99)),
    max_size=6,
)


@given(named)
def test_what_is_written_is_read_back_bit_for_bit(tensors):
    back = opened(packed(tensors))
    assert same(back, dict(sorted(tensors.items())))
    assert list(back) == sorted(tensors)


@given(named)
def test_the_formats_own_library_writes_the_same_bytes_and_reads_ours(tensors):
    theirs = safetensors.torch.save(tensors)
    assert packed(tensors) == theirs
    assert same(opened(theirs), dict(sorted(tensors.items())))
    assert same(safetensors.torch.load(packed(tensors)), tensors)


def test_every_dtype_of_the_format_is_known():
    tensors = {str(dtype): filled(dtype, (3, 2)) for dtype in DTYPES}
    assert packed(tensors, metadata={"a": "b"}) == safetensors.torch.save(tensors, {"a": "b"})
    assert same(opened(packed(tensors)), dict(sorted(tensors.items())))


def test_tensors_stand_at_multiples_of_their_width():
    tensors = {"a": filled(torch.bool, (3,)), "b": filled(torch.float64, (1,)), "c": filled(torch.bfloat16, (5,))}
    data = packed(tensors)
    found, _ = spans(io.BytesIO(data), "a.safetensors")
    assert [span.name for span in found] == ["b", "c", "a"]
    assert all(span.begin % span.dtype.itemsize == 0 for span in found)
    assert int.from_bytes(data[:8], "little") % 8 == 0


def test_the_order_of_a_mapping_does_not_show():
    tensors = {name: filled(torch.float32, (2,), seed) for seed, name in enumerate("cab")}
    assert packed(tensors) == packed(dict(sorted(tensors.items())))
    assert packed({}, metadata={"z": "1", "a": "2"}) == packed({}, metadata={"a": "2", "z": "1"})


def test_views_conjugates_and_parameters_are_written_as_what_they_show():
    base = filled(torch.float32, (4, 6))
    complex_ = torch.complex(base[:, :3], base[:, 3:])
    views = {
        "transposed": base.t(),
        "strided": base[1:, ::2],
        "expanded": base[:1].expand(4, 6),
        "scalar": base[0, 0],
        "conjugate": complex_.conj(),
        "negative": complex_.conj().imag,
        "negative of one": complex_[:1, :1].conj().imag,
        "parameter": nn.Parameter(base),
        "empty": base[:, :0],
    }
    back = opened(packed(views))
    assert all(same(back[name], view.detach().resolve_conj().resolve_neg()) for name, view in views.items())
    assert not back["parameter"].requires_grad


def test_contiguous_tensors_are_not_copied():
    w = torch.zeros(1000)
    _, memory = parts({"w": w}, "a.safetensors")
    w[0] = 1.0
    assert bytes(memory[:4]) == b"\x00\x00\x80\x3f"
    assert memory.nbytes == 4000


def test_what_is_read_is_private_and_aligned():
    data = bytearray(packed({"w": torch.ones(3), "v": torch.ones(2)}))
    back = opened(data)
    data[-24:] = bytes(24)
    back["v"].zero_()
    assert back["w"].tolist() == [1.0, 1.0, 1.0]
    assert all(tensor.data_ptr() % 16 == 0 for tensor in back.values())


class Slow(io.BytesIO):
    """A file that gives a few bytes at a time, as pipes and network folders may."""

    def readinto(self, buffer, /):
        return super().readinto(memoryview(buffer)[:3])


def test_a_file_that_comes_in_pieces_is_read_whole():
    tensors = {"w": filled(torch.float32, (5, 7))}
    assert same(read(Slow(packed(tensors)), "a.safetensors"), tensors)


class Failing(io.BytesIO):
    def readinto(self, buffer, /):
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_is_named():
    with pytest.raises(CheckpointError, match=r"^a\.safetensors: cannot be read: Input/output error\n"):
        read(Failing(packed({"w": torch.zeros(2)})), "a.safetensors")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, dtype=torch.complex128), "cannot keep 'layer.w': complex128[2] has no form"),
        (torch.zeros(2, 2).to_sparse(), "cannot keep 'layer.w', which is of torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "cannot keep 'layer.w', which is a meta tensor"),
    ],
)
def test_what_the_format_has_no_form_for_is_refused_before_the_first_byte(tensor, reason):
    with pytest.raises(CheckpointError) as caught:
        parts({"a": torch.zeros(2), "layer.w": tensor}, "it-000001/state.safetensors")
    assert caught.value.message.startswith(f"it-000001/state.safetensors: {reason}")
    assert caught.value.hint


def test_names_and_metadata_that_cannot_be_told_apart_or_written_are_refused():
    with pytest.raises(CheckpointError, match=r"cannot have the name '__metadata__'"):
        packed({"__metadata__": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"surrogates not allowed"):
        packed({"\ud800": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"has no form in JSON"):
        packed({}, metadata={"a": b"b"})


def crafted(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def one(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


EIGHT = bytes(8)
HUGE = 2**62

BAD = {
    "0 bytes, too few": b"",
    "9 bytes, too few": bytes(9),
    "a header of 1152921504606846976 bytes, expected at most 61": crafted(one(), length=2**60),
    "a header of 18446744073709551615 bytes": crafted(one(), length=2**64 - 1),
    "a header of 100 bytes, expected at most 69": crafted(one(), EIGHT, length=100),
    "the header does not begin with '{'": crafted(b" {}       "),
    "not JSON": crafted(b'{"w":1,       '),
    "the key 'w' occurs twice": crafted(b'{"w":{},"w":{}}'),
    "w: expected an object, got 3": crafted({"w": 3}),
    "w: there is no 'dtype'": crafted({"w": {"shape": [], "data_offsets": [0, 0]}}),
    "w: there is no 'shape'": crafted({"w": {"dtype": "F32", "data_offsets": [0, 0]}}),
    "w: there is no 'data_offsets'": crafted({"w": {"dtype": "F32", "shape": []}}),
    "w: unknown 'path'": crafted(one(path="../x"), EIGHT),
    "w.dtype: unknown dtype 'F31'": crafted(one("F31"), EIGHT),
    "w.dtype: expected a text, got 3": crafted(one(3), EIGHT),
    "w.shape[0]: expected an int, got 2.0": crafted(one(shape=[2.0]), EIGHT),
    "w.shape[0]: expected an int, got True": crafted(one(shape=[True, 2]), EIGHT),
    "w.shape[1]: expected an int of 0 to 9223372036854775807, got -2": crafted(one(shape=[1, -2]), EIGHT),
    "w.shape[0]: expected an int of 0 to 9223372036854775807, got 9223372036854775808": crafted(one(shape=[2**63])),
    "w.shape: expected a list, got 2": crafted(one(shape=2), EIGHT),
    "w.shape: 65 dimensions, expected at most 64": crafted(one(shape=[1] * 64 + [2]), EIGHT),
    "w.shape: [4611686018427387904, 2] is more than there can be": crafted(one(shape=[HUGE, 2]), EIGHT),
    "w.shape: [0, 4611686018427387904, 2] is more than there can be": crafted(one(shape=[0, HUGE, 2], offsets=[0, 0])),
    "w.data_offsets: expected a list, got 'x'": crafted(one(offsets="x"), EIGHT),
    "w.data_offsets: expected a begin and an end, got [0]": crafted(one(offsets=[0]), EIGHT),
    "w.data_offsets: expected a begin and an end, got [0, 8, 9]": crafted(one(offsets=[0, 8, 9]), EIGHT),
    "w.data_offsets: expected a begin and an end, got [8, 0]": crafted(one(offsets=[8, 0]), EIGHT),
    "w.data_offsets[0]: expected an int of 0 to": crafted(one(offsets=[-8, 0]), EIGHT),
    "w: 8 bytes, expected 12 for F32[3]": crafted(one(shape=[3]), EIGHT),
    "w: 8 bytes, expected 0 for F32[0]": crafted(one(shape=[0]), EIGHT),
    "w: 8 bytes, expected 2 for U8[2]": crafted(one("U8"), EIGHT),
    "7 bytes of tensors, expected 8": crafted(one(), bytes(7)),
    "9 bytes of tensors, expected 8": crafted(one(), bytes(9)),
    "8 bytes of tensors, expected 0": crafted({}, EIGHT),
    "a gap before 'w': it begins at 8, expected 0": crafted(one(offsets=[8, 16]), bytes(16)),
    "an overlap before 'x': it begins at 4, expected 8": crafted({**one(), "x": one(offsets=[4, 12])["w"]}, bytes(16)),
    "an overlap before 'x': it begins at 0, expected 8": crafted({**one(), "x": one()["w"]}, EIGHT),
    "'w' is neither true nor false: 7": crafted(one("BOOL", [8]), b"\0\1\0\7\1\1\1\1"),
    "__metadata__: expected an object, got 3": crafted({"__metadata__": 3}),
    "__metadata__.a: expected a text, got 3": crafted({"__metadata__": {"a": 3}}),
    "nested deeper than 64": crafted(b'{"w":' * 100 + b"}" * 100),
}


@pytest.mark.parametrize("reason", BAD)
def test_whatever_is_wrong_with_a_file_is_said(reason):
    with pytest.raises(CheckpointError) as caught:
        opened(BAD[reason])
    assert caught.value.message.startswith("a.safetensors")
    assert reason in caught.value.message
    assert caught.value.hint


def test_header_order_is_free_and_empty_tensors_may_stand_anywhere():
    header = {
        "c": {"dtype": "U8", "shape": [0, 5], "data_offsets": [4, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
        "a": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]},
    }
    back = opened(crafted(header, bytes(range(8))))
    assert {name: (tensor.tolist(), tuple(tensor.shape)) for name, tensor in back.items()} == {
        "a": ([[0, 1], [2, 3]], (2, 2)),
        "b": ([4, 5, 6, 7], (4,)),
        "c": ([], (0, 5)),
    }


@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
def test_the_order_of_dimensions_in_memory_comes_back(format_):
    image = torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=format_)
    tensors = {"image": image, "turned": torch.arange(6.0).reshape(2, 3).T, "gaps": torch.arange(6.0)[::2]}
    back = opened(packed(tensors))
    assert same(back, tensors)
    assert back["image"].stride() == image.stride()
    assert back["turned"].stride() == tensors["turned"].stride()
    assert back["gaps"].is_contiguous()


@pytest.mark.parametrize("order", ["0", "0,0", "0,2", "1,-1", "a,b", "0,1,2", ""])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(CheckpointError, match="2 dimensions, and the order"):
        opened(packed({"w": torch.zeros(2, 3)}, metadata={"order:w": order}))


def test_writing_and_reading_need_no_memory_beside_the_tensors(tmp_path):
    """Resident memory of a process that writes 128 MiB and reads them again."""
    program = """
import resource, sys, torch
from fprune.checkpoint.tensors import parts, read
tensors = {f"w{i}": torch.ones(4, 2**20) for i in range(8)}
small = {"w": torch.ones(4)}
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def write(tensors):
    with open(sys.argv[1], "wb", buffering=0) as file:
        for part in parts(tensors, "a"):
            file.write(part)
def load():
    with open(sys.argv[1], "rb", buffering=0) as file:
        return read(file, "a")
write(small); load()
a = peak(); write(tensors); b = peak(); back = load(); c = peak()
print(b - a, c - b)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    written, loaded = map(float, run.stdout.split())
    assert written < 8, f"writing 128 MiB took {written} MiB more"
    assert loaded < 128 + 8, f"reading 128 MiB took {loaded} MiB"


def test_a_file_that_promises_more_than_it_holds_allocates_nothing():
    promise = crafted(one("U8", [2**40], [0, 2**40]), bytes(64))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="bytes of tensors, expected"):
        opened(promise)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20
