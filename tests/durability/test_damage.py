"""Runs with one damaged file: with the digests in place none passes, and without them nothing but a named error."""

import json
import time
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fprune.checkpoint import disk
from fprune.checkpoint.seal import sealed
from fprune.errors import CheckpointError, RoundDamaged
from tests.durability.runs import RUNS, state
from tests.faults.mutants import BYTES, damaged_json, damaged_tensors, edited

NEWEST = 2
FILES = ["run.json", "origin.safetensors", f"it-00000{NEWEST}/state.safetensors", f"it-00000{NEWEST}/manifest.json"]
EARLIER = [f"it-000001/{name}" for name in ("state.safetensors", "manifest.json")]


def made(name: str, folder: Path) -> dict[int, str]:
    """A run of three rounds, and their states."""
    stream = RUNS[name].stream(folder, "all")
    states = {index: state(next(stream)) for index in range(NEWEST + 1)}
    stream.close()
    return states


@pytest.fixture(scope="module")
def compact(tmp_path_factory) -> tuple[Path, dict[int, str]]:
    """A run with everything that can be in one: compact, with a lineage, a momentum and example inputs."""
    folder = tmp_path_factory.mktemp("run") / "agp"
    return folder, made("agp", folder)


def mutant(path: Path, other: Path, random: Random) -> bytes:
    """Other contents for a file."""
    data = path.read_bytes()
    if random.random() < 0.05:
        return random.choice([b"", other.read_bytes(), b"cos\nsystem\n(S'true'\ntR."])
    if random.random() < 0.4:
        return random.choice(BYTES)(data, random)
    return damaged_tensors(data, random) if path.suffix == ".safetensors" else damaged_json(data, random)


@pytest.mark.parametrize("amount", [120, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_mutant_of_a_run_is_accepted(compact, amount):
    folder, states = compact
    random, refused, fallen = Random(3), 0, 0
    for i in range(amount):
        path = folder / random.choice(FILES)
        before = path.read_bytes()
        after = mutant(path, folder / random.choice([*FILES, *EARLIER]), random)
        if after == before:
            continue
        path.write_bytes(after)
        begin = time.process_time()
        try:
            with pytest.raises(CheckpointError) as caught:
                RUNS["agp"].load(folder, NEWEST)
            refused += 1
            assert path.name in caught.value.message, f"mutant {i}: {caught.value.message}"
            assert caught.value.hint
            if path.parent != folder and i % 10 == 0:
                with pytest.warns(RoundDamaged, match=path.name.replace(".", r"\.")):
                    assert state(RUNS["agp"].load(folder)) == states[NEWEST - 1]
                fallen += 1
        finally:
            path.write_bytes(before)
        assert time.process_time() - begin < 2, f"mutant {i}"
    assert refused > 0.9 * amount
    assert fallen > 0.01 * amount
    assert state(RUNS["agp"].load(folder)) == states[NEWEST], "the folder is whole again"


class Forger:
    """Writes damaged records with digests that fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = {name: json.loads((folder / name).read_bytes())["record"] for name in (FILES[0], FILES[3])}
        self.tensors = {name: (folder / name).read_bytes() for name in (FILES[1], FILES[2])}

    def write(self, records: dict[str, Any], tensors: dict[str, bytes]) -> None:
        run, manifest = (json.loads(json.dumps(records[name])) for name in (FILES[0], FILES[3]))
        for name, data in tensors.items():
            (self.folder / name).write_bytes(data)
        if isinstance(run, dict):
            run["origin"] = self._said(FILES[1])
        text = sealed(run, "run.json")
        (self.folder / FILES[0]).write_bytes(text)
        if isinstance(manifest, dict):
            manifest["run"] = disk.digest_of(text)
            manifest["files"] = {"state.safetensors": self._said(FILES[2])}
        (self.folder / FILES[3]).write_bytes(sealed(manifest, "manifest.json"))

    def _said(self, name: str) -> dict[str, Any]:
        found = disk.digest_file(self.folder / name)
        return {"bytes": found.bytes, "blake2b": found.blake2b}


@pytest.mark.parametrize("amount", [80, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_forged_run_is_refused_by_name_or_read(compact, amount):
    folder, states = compact
    forger, random, outcomes = Forger(folder), Random(4), {"refused": 0, "read": 0}
    for i in range(amount):
        records, tensors = dict(forger.records), dict(forger.tensors)
        name = random.choice([FILES[0], FILES[3], FILES[3], FILES[3], FILES[1], FILES[2]])
        if name in records:
            records[name] = edited(records[name], random)
        else:
            tensors[name] = damaged_tensors(tensors[name], random)
        try:
            forger.write(records, tensors)
        except CheckpointError:
            continue  # a mutant that JSON cannot hold
        begin = time.process_time()
        try:
            with warnings.catch_warnings(action="error"):
                RUNS["agp"].load(folder, NEWEST)
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutant {i} of {name}: {type(error).__name__}: {error}") from error
        assert time.process_time() - begin < 2, f"mutant {i}"
    forger.write(forger.records, forger.tensors)
    assert state(RUNS["agp"].load(folder)) == states[NEWEST], "the forger can write the run itself"
    assert outcomes["refused"] > 0.4 * amount, outcomes
