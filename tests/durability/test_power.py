"""A power failure at any call of the system: what was committed is there, what is there is whole, the run goes on."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fprune.checkpoint import commit, disk, layout
from fprune.errors import CheckpointError
from tests.durability.layer import installed
from tests.durability.power import Power
from tests.durability.runs import RUNS, reference, state

RUN = RUNS["annealing"]
ROUNDS = 4
HOW = ["least", "names", "drawn", "drawn"]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return reference("annealing")


def failures(scratch: Path) -> list[tuple[Path, int, str]]:
    """What failures leave that come before each call of a run; and the last round committed until then."""
    power, found, done, calls = Power(scratch), [], -1, 0
    known = set[Any]()

    def event(name: str, args: tuple[Any, ...]) -> Any:
        nonlocal calls
        for turn, how in enumerate(HOW):
            target = scratch.parent / f"left-{calls}-{turn}"
            power.left(target, how, Random(calls * len(HOW) + turn))
            if (contents := (done, *visible(target))) not in known:
                known.add(contents)
                found.append((target / "run", done, f"{how}, before call {calls} ({name})"))
        calls += 1
        return power(name, args)

    scratch.mkdir()
    with installed(event):
        stream = RUN.stream(scratch / "run")
        for _ in range(ROUNDS):
            done = next(stream).index
        stream.close()
    return found


def visible(folder: Path) -> list[tuple[str, bytes | None]]:
    """What readers look at: hidden names are none of their business."""
    paths = sorted(path for path in folder.rglob("*") if "/." not in str(path.relative_to(folder.parent)))
    return [(str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None) for path in paths]


def problem(folder: Path, done: int, expected: list[str]) -> str:
    """What is wrong with what a power failure left; nothing, as a rule."""
    if not folder.exists() or not (folder / "run.json").exists():
        return "the run is lost" if done >= 0 else ""
    indices = sorted(int(path.name[3:]) for path in folder.glob("it-*"))
    if not indices:
        return "all rounds are lost" if done >= 0 else ""
    if indices[-1] < done:
        return f"round {done} is lost"
    try:
        with warnings.catch_warnings(action="error"):
            found = {index: state(RUN.load(folder, index)) for index in indices}
            newest = RUN.load(folder).index
    except (CheckpointError, UserWarning) as error:
        return f"torn: {error}"
    wrong = [index for index in indices if found[index] != expected[index]]
    return f"rounds {wrong} are wrong" if wrong or newest != indices[-1] else ""


def test_a_power_failure_at_any_call_loses_at_most_the_round_in_flight(expected, tmp_path):
    found = failures(tmp_path / "disk")
    assert len(found) >= 10
    assert [f"{when}: {text}" for folder, done, when in found if (text := problem(folder, done, expected))] == []
    begun = [folder for folder, _, _ in found if folder.exists()]
    for folder in begun[::2]:
        stream = RUN.stream(folder)
        rounds = [(result.index, state(result)) for result in stream]
        assert rounds == [(i, expected[i]) for i in range(rounds[0][0], len(expected))]


def without_forcing_files(monkeypatch) -> None:
    def write_file(path: Path, parts: Any) -> disk.Written:
        descriptor = disk.os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        for part in parts:
            disk.os.write(descriptor, bytes(part))
        os.close(descriptor)
        return disk.digest_file(path)

    monkeypatch.setattr(disk, "write_file", write_file)


def without_forcing_folders(monkeypatch) -> None:
    monkeypatch.setattr(disk, "sync_folder", lambda path: None)


def without_forcing_the_parent(monkeypatch) -> None:
    inner = disk.sync_folder
    monkeypatch.setattr(
        disk, "sync_folder", lambda path: None if path.name == "run" and (path / "run.json").exists() else inner(path)
    )


def without_staging(monkeypatch) -> None:
    @contextmanager
    def staged(folder: Path, name: str, **_: Any) -> Iterator[Path]:
        disk.make_folder(folder / name)
        disk.sync_folder(folder)
        yield folder / name
        disk.sync_folder(folder / name)

    monkeypatch.setattr(layout, "staged", staged)


def forcing_after_the_name(monkeypatch) -> None:
    @contextmanager
    def staged(folder: Path, name: str, **_: Any) -> Iterator[Path]:
        staging = commit._private(folder, commit.STAGING)
        disk.make_folder(staging)
        yield staging
        disk.rename(staging, folder / name)
        disk.sync_folder(folder)
        disk.sync_folder(folder / name)

    monkeypatch.setattr(layout, "staged", staged)


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (without_forcing_files, "torn"),
        (without_forcing_folders, "the run is lost"),
        (without_forcing_the_parent, "all rounds are lost"),
        (without_staging, "torn"),
        (forcing_after_the_name, "torn"),
    ],
)
def test_a_writer_that_forces_too_little_or_too_late_is_caught(
    mistake: Callable[..., None], what, expected, tmp_path, monkeypatch
):
    mistake(monkeypatch)
    found = failures(tmp_path / "disk")
    problems = {text.partition(":")[0] for folder, done, _ in found if (text := problem(folder, done, expected))}
    assert any(what in text for text in problems), problems
