"""Calls of the system that fail: the folder is as before the round or as after it, and the run goes on from there."""

import errno
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fprune.errors import CheckpointError
from tests.durability.layer import Calls, installed
from tests.durability.runs import RUNS, reference, state

RUN = RUNS["annealing"]
CODES = [errno.EIO, errno.ENOSPC, errno.EINTR]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return reference("annealing")


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory) -> Path:
    """A run that has made two rounds."""
    folder = tmp_path_factory.mktemp("run") / "two"
    go(folder, 2)
    return folder


def go(folder: Path, rounds: int) -> list[str]:
    """Go on for some rounds."""
    stream = RUN.stream(folder)
    states = [state(next(stream)) for _ in range(rounds)]
    stream.close()
    return states


def refusing(code: int) -> Callable[[str, tuple[Any, ...]], Any]:
    def fail(name: str, args: tuple[Any, ...]) -> Any:
        if name == "rmtree":  # it passes over what it cannot remove
            return lambda: None
        raise OSError(code, os.strerror(code))

    return fail


def seen(folder: Path) -> list[tuple[int, str]]:
    """What a reader finds, and no warning."""
    with warnings.catch_warnings(action="error"):
        rounds = [RUN.load(folder, int(path.name[3:])) for path in sorted(folder.glob("it-*"))]
        assert state(RUN.load(folder)) == state(rounds[-1])
    return [(result.index, state(result)) for result in rounds]


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def calls_of(folder: Path, start: str) -> list[str]:
    """The calls of a commit that nothing disturbs."""
    calls = Calls(start=start)
    with installed(calls):
        go(folder, 1)
    return calls.made


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_commit_that_fails_at_any_call_is_before_or_after(two_rounds, expected, tmp_path, turn):
    shutil.copytree(two_rounds, tmp_path / "whole")
    made = calls_of(tmp_path / "whole", "mkdir")
    assert made.count("fsync") == 4
    assert made.count("rename") == 2, "the new round gets its name, and the oldest loses its own"
    for k, name in enumerate(made):
        folder, code = tmp_path / f"{k}", CODES[(k + turn) % len(CODES)]
        shutil.copytree(two_rounds, folder)
        told = ""
        with installed(Calls(k, refusing(code), start="mkdir")):
            try:
                go(folder, 1)
            except CheckpointError as error:
                told = error.message
        rounds = seen(folder)
        assert rounds[-1][0] in (1, 2), f"{name}, call {k}"
        assert (1, expected[1]) in rounds, f"{name}, call {k}: the round before is gone"
        assert all(digest == expected[index] for index, digest in rounds)
        if not told:
            assert name == "rmtree", f"{name}, call {k} failed, and nobody said so"
            assert rounds[-1][0] == 2
        else:
            assert str(folder) in told
            assert os.strerror(code) in told
            assert not [path for path in left_over(folder) if path.startswith(".tmp")], f"{name}, call {k}"
        assert go(folder, 1) == expected[rounds[-1][0] + 1 :][:1], f"{name}, call {k}: it goes on differently"
        assert left_over(folder) == []


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_at_any_call_of_its_beginning_can_begin_again(expected, tmp_path, turn):
    made = calls_of(tmp_path / "whole", "")
    assert made[0] == "mkdir", "the folder of the run"
    first = made.index("mkdir", 1)  # up to there the origin and the description are written
    assert first > 8
    for k in range(first):
        folder, code = tmp_path / f"{k}", CODES[(k + turn) % len(CODES)]
        with installed(Calls(k, refusing(code))), pytest.raises(CheckpointError) as caught:
            go(folder, 1)
        assert str(folder) in caught.value.message or str(folder.parent) in caught.value.message, f"{made[k]}, call {k}"
        assert os.strerror(code) in caught.value.message
        assert not list(folder.glob("it-*"))
        assert not folder.exists() or left_over(folder) == []
        assert go(folder, 1) == expected[:1]


@pytest.mark.parametrize("piece", [1, 7])
def test_short_writes_are_completed(expected, tmp_path, piece):
    class Short:
        def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
            return (lambda: os.write(args[0], args[1][:piece])) if name == "write" and len(args[1]) < 4000 else None

    with installed(Short()):
        assert go(tmp_path / "run", 2) == expected[:2]
    assert [index for index, _ in seen(tmp_path / "run")] == [0, 1]


def test_a_write_that_makes_no_progress_is_an_error(tmp_path):
    class Stuck:
        def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
            return (lambda: 0) if name == "write" else None

    with installed(Stuck()), pytest.raises(CheckpointError):
        go(tmp_path / "run", 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_within_a_commit_loses_the_round_in_flight_only(two_rounds, expected, tmp_path, kind):
    def interrupt(name: str, args: tuple[Any, ...]) -> Any:
        raise kind

    shutil.copytree(two_rounds, tmp_path / "whole")
    made = calls_of(tmp_path / "whole", "mkdir")
    for k in range(0, len(made), 2 if kind is KeyboardInterrupt else 6):
        folder = tmp_path / f"{k}"
        shutil.copytree(two_rounds, folder)
        with installed(Calls(k, interrupt, start="mkdir")), pytest.raises(kind):
            go(folder, 1)
        rounds = seen(folder)
        assert (1, expected[1]) in rounds
        assert not [path for path in left_over(folder) if path.startswith(".tmp")]
        assert go(folder, 1) == expected[rounds[-1][0] + 1 :][:1]
        assert left_over(folder) == []
