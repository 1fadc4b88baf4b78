"""Readers meet thousands of damaged files: they refuse them or give what the file says, in little time and room."""

import io
import json
import time
import tracemalloc
from collections import Counter
from random import Random

import pytest
import torch

from fprune.checkpoint.entry import Entry
from fprune.checkpoint.tensors import parts, read, spans
from fprune.checkpoint.text import DEPTH, dumps, loads
from fprune.errors import CheckpointError
from tests.faults.mutants import PIECES, damaged_json, damaged_tensors

SECONDS = 1.0
ROOM = 4 * 2**20  # for Python's own objects; tensors are counted against the file's size
AMOUNTS = [1_500, pytest.param(20_000, marks=pytest.mark.slow)]


def files() -> list[bytes]:
    torch.manual_seed(0)
    several = {
        "params/conv.weight": torch.randn(4, 3, 3, 3),
        "params/conv.bias": torch.randn(4),
        "buffers/norm.num_batches_tracked": torch.tensor(7),
        "masks/conv.weight": torch.tensor([True, False, True, True]),
        "consumed/conv.weight": torch.arange(5, dtype=torch.uint8),
        "carried/0": torch.randn(2, 0),
        "carried/1": torch.randn(3).bfloat16(),
    }
    sets = [several, {"w": torch.ones(2)}, {}, {f"l{i}": torch.zeros(2, dtype=torch.bool) for i in range(40)}]
    return [
        b"".join(bytes(part) for part in parts(tensors, "a", metadata=metadata))
        for tensors in sets
        for metadata in (None, {"format": "1"})
    ]


def texts() -> list[bytes]:
    record = {
        "format": 1,
        "i": 3,
        "files": {"state.safetensors": {"bytes": 1234, "blake2b": "ab" * 32}},
        "parent": None,
        "metrics": {"loss": 0.25, "accuracy": "nan"},
        "history": [{"round": i, "counts": {"conv": [4, i]}, "notes": []} for i in range(4)],
    }
    return [dumps(record, "a"), dumps(record, "a", indent=1), b"[]", b'{"a": [1, "x"]}']


def watched(attempt, number: int) -> str:
    """Run one attempt; whatever it raises must be a CheckpointError, and time and memory must stay small."""
    traced = number % 10 == 0  # tracing makes it five times as slow
    if traced:
        tracemalloc.start()
    begin, told = time.process_time(), None
    try:
        attempt()
    except CheckpointError as error:
        told = error.message
    spent, room = time.process_time() - begin, tracemalloc.get_traced_memory()[1] if traced else 0
    if traced:
        tracemalloc.stop()
    assert spent < SECONDS, f"mutant {number}: {spent} s"
    assert room < ROOM, f"mutant {number}: {room} bytes"
    assert told is None or told.startswith("a"), f"mutant {number}: the file is not named: {told}"
    assert told is None or len(told) < 1000, f"mutant {number}: {len(told)} characters"
    return "accepted" if told is None else "refused"


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_files_of_tensors_are_refused_or_mean_what_they_say(amount):
    random, seeds, outcomes = Random(0), files(), Counter()
    for i in range(amount):
        data = random.choice(seeds)
        for _ in range(random.choice([1, 1, 2])):
            data = damaged_tensors(data, random) if len(data) > 8 and _is_json(data) else data

        def attempt(data=data):
            tensors = read(io.BytesIO(data), "a")
            found, _ = spans(io.BytesIO(data), "a")
            assert sum(tensor.nbytes for tensor in tensors.values()) < len(data)
            body = data[-found[-1].end :] if found and found[-1].end else b""
            for span in found:
                tensor = tensors[span.name]
                assert (tensor.dtype, tuple(tensor.shape)) == (span.dtype, span.shape)
                raw = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
                assert raw.numpy().tobytes() == body[span.begin : span.end]

        outcomes[watched(attempt, i)] += 1
    assert outcomes["refused"] > amount / 2, outcomes
    assert outcomes["accepted"] > amount / 100, "some damage, such as other numbers, is no damage to the format"


def _is_json(data: bytes) -> bool:
    """Whether damage can be built on: mutants of mutants need a header that parses."""
    try:
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_json_is_refused_or_read_as_values(amount):
    random, seeds, outcomes = Random(1), texts(), Counter()
    for i in range(amount):
        data = damaged_json(random.choice(seeds), random)

        def attempt(data=data):
            walk(loads(data, "a"), 0)

        outcomes[watched(attempt, i)] += 1
    assert outcomes["refused"] > amount / 4
    assert outcomes["accepted"] > amount / 20


READERS = [Entry.integer, Entry.number, Entry.flag, Entry.text, lambda e: e["i"], lambda e: e.maybe("i", Entry.text)]


def walk(entry: Entry, depth: int) -> None:
    """Use every accessor on every value: the right one gives it, the others refuse."""
    assert depth <= DEPTH
    fitting = 0
    for reader in READERS:
        try:
            reader(entry)
            fitting += 1
        except CheckpointError:
            continue
    value = entry.value
    if isinstance(value, dict):
        entry.only(*value)
        assert entry.mapped(lambda inner: walk(inner, depth + 1)).keys() == value.keys()
    elif isinstance(value, list):
        assert len(entry.each(lambda inner: walk(inner, depth + 1))) == len(value)
    else:
        assert (fitting > 0) == (value is not None)


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: repr(piece[:12]))
def test_known_stumbling_blocks_are_refused_wherever_they_stand(piece):
    accepted = {b"true", b"null"}
    for text in (piece, b"[" + piece + b"]", b'{"a":' + piece + b"}", b'{"a":[0,' + piece + b"]}"):
        if piece in accepted:
            loads(text, "a")
        else:
            with pytest.raises(CheckpointError):
                loads(text, "a")
