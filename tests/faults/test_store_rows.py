"""Rows 39, 41 and 44 to 47 of the fault list: what happens to a run in a folder."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fprune
from fprune import Pipeline, agp, evaluate, finetune, level, run_folder
from fprune.checkpoint import disk
from fprune.errors import CheckpointError, DivergenceError, EnvironmentChanged, RoundDamaged, StageError
from fprune.records import TaskResult
from tests.unit import toys

STATE, MANIFEST = "state.safetensors", "manifest.json"


def pipeline(train: Callable[[Any], Any] = toys.train, score: Callable[[Any], Any] = toys.score) -> Pipeline:
    return agp(3) | level() | finetune(train) | evaluate(score)


def failing(fn: Callable[[Any], Any], fail: Callable[[Any], Any], after: int) -> Callable[[Any], Any]:
    """A function that fails once, in its call after so many; under the name of the one that does not."""
    calls: list[int] = []

    def called(module: nn.Module) -> Any:
        calls.append(1)
        return fail(module) if len(calls) == after + 1 else fn(module)

    called.__name__ = called.__qualname__ = fn.__qualname__
    return called


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("it-"))


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith((".tmp-", ".trash-"))]


def uninterrupted() -> list[TaskResult]:
    return list(pipeline().stream(toys.net(), 0.5))


def begun(folder: Path, rounds: int = 3) -> None:
    """A run of which the first rounds were made."""
    stream = iter(pipeline().stream(toys.net(), 0.5, store=run_folder(folder, keep="all")))
    for _ in range(rounds):
        next(stream)


def no_data(module: nn.Module) -> Any:
    raise FileNotFoundError("validation.csv")


def diverge(module: Any) -> None:
    with torch.no_grad():
        module[3].weight[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        (
            lambda: pipeline(score=failing(toys.score, no_data, 1)),
            StageError,
            r"round 1, evaluate\(score\): FileNotFoundError: validation\.csv",
        ),
        (
            lambda: pipeline(train=failing(toys.train, no_data, 1)),
            StageError,
            r"round 1, finetune\(train\): FileNotFoundError: validation\.csv",
        ),
        (
            lambda: pipeline(train=failing(toys.train, diverge, 1)),
            DivergenceError,
            r"'3\.weight' has 1 non-finite value \(first at \[0,0\]\) after training",
        ),
        (
            lambda: pipeline(score=failing(toys.score, lambda module: float("nan"), 1)),
            StageError,
            "what score returned is nan, expected a finite number",
        ),
    ],
    ids=["evaluator", "training", "divergence", "nan score"],
)
def test_rows_39_to_41_a_failed_round_is_not_committed_and_the_run_is_resumed(
    tmp_path: Path, broken: Callable[[], Pipeline], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        broken().run(toys.net(), 0.5, store=tmp_path)
    assert caught.value.hint  # type: ignore[attr-defined]
    assert kept(tmp_path) == ["it-000000"]
    assert not left_over(tmp_path)
    resumed = list(pipeline().stream(toys.net(), 0.5, store=tmp_path))
    assert resumed == uninterrupted()[1:]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"bytes, expected"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7] + b"\x01" * 7), "its digest is not the one on record"),
        (lambda path: path.write_bytes(b""), "0 bytes, expected"),
        (lambda path: path.write_bytes((path.parents[1] / "it-000000" / STATE).read_bytes()), "expected|digest"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["truncated", "flipped", "empty", "swapped", "missing"],
)
def test_row_44_a_damaged_round_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    begun(tmp_path)
    damage(tmp_path / "it-000002" / STATE)
    with pytest.warns(RoundDamaged, match=rf"it-000002.*({reason}).*goes on from round 1"):
        resumed = list(pipeline().stream(toys.net(), 0.5, store=tmp_path))
    assert resumed == uninterrupted()[2:]


def test_row_44_when_nothing_is_left_every_reason_is_told(tmp_path: Path) -> None:
    begun(tmp_path)
    for name in kept(tmp_path):
        (tmp_path / name / STATE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no round can be read") as caught:
        list(pipeline().stream(toys.net(), 0.5, store=tmp_path))
    assert all(name in caught.value.message for name in ("it-000000", "it-000001", "it-000002"))
    assert caught.value.hint


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def header(text: bytes, size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text


MALICIOUS = {
    "pickle": pickle.dumps(Payload()),
    "a header of 2**60 bytes": header(b"{}", 2**60),
    "overlapping tensors": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + bytes(4),
    "a name that is a path": header(b'{"../../executed":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    "nested JSON": header(b"[" * 100_000),
}


@pytest.mark.parametrize("file", [STATE, MANIFEST, "run.json", "origin.safetensors"])
@pytest.mark.parametrize("content", MALICIOUS.values(), ids=MALICIOUS)
def test_row_45_malicious_files_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    begun(run, 1)
    target = run / "it-000000" / file if file in (STATE, MANIFEST) else run / file
    target.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")) as caught:
        fprune.load(run, toys.net())
    assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before, "nothing was executed, and no path was built"


@pytest.mark.parametrize("file", ["run.json", "origin.safetensors", f"it-000000/{STATE}", f"it-000000/{MANIFEST}"])
@pytest.mark.parametrize("put", ["link", "folder", "pipe", "nothing"])
def test_row_45_only_files_of_their_own_are_read(tmp_path: Path, file: str, put: str) -> None:
    begun(tmp_path / "run", 1)
    path = tmp_path / "run" / file
    path.rename(tmp_path / "elsewhere")
    if put == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif put == "folder":
        path.mkdir()
    elif put == "pipe":
        os.mkfifo(path)
    found = "a symbolic link" if put == "link" else "not a regular file" if put in ("folder", "pipe") else "[Nn]o"
    with pytest.raises(CheckpointError, match=f"{found}") as caught:
        fprune.load(tmp_path / "run", toys.net())
    assert path.name in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (lambda store: (agp(4) | level()).stream(toys.net(), 0.5, store=store), r"pipeline: 'agp\(3\).*'agp\(4\)"),
        (lambda store: pipeline().stream(toys.net(), 0.6, store=store), "config: .*0.5.* there, .*0.6.* here"),
        (lambda store: pipeline().stream(toys.net(), 0.5, seed=1, store=store), "seed: 0 there, 1 here"),
        (lambda store: pipeline().stream(toys.net(1), 0.5, store=store), "values of the network differ: .*weight"),
        (
            lambda store: pipeline().stream(nn.Sequential(*toys.net()[:3], nn.Linear(8, 5)), 0.5, store=store),
            r"tensor '.*3\.bias' is float32\[5\], was float32\[4\]",
        ),
    ],
    ids=["pipeline", "config", "seed", "values", "shapes"],
)
def test_row_46_another_run_is_refused_with_the_difference(
    tmp_path: Path, again: Callable[[Path], Any], message: str
) -> None:
    begun(tmp_path, 1)
    with pytest.raises(CheckpointError, match=f"holds another run.*{message}") as caught:
        list(again(tmp_path))
    assert "another folder" in caught.value.hint
    assert kept(tmp_path) == ["it-000000"]


def test_row_46_another_environment_is_a_warning_or_an_error(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(CheckpointError, match=f"threads: {before} then, {before + 1} now") as caught:
            list(pipeline().stream(toys.net(), 0.5, store=run_folder(tmp_path, strict_env=True)))
        assert "strict_env" in caught.value.hint
        with pytest.warns(EnvironmentChanged, match=f"threads: {before} then, {before + 1} now"):
            assert len(list(pipeline().stream(toys.net(), 0.5, store=tmp_path))) == 3
    finally:
        torch.set_num_threads(before)


def test_row_47_no_room_is_told_before_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path, 1)
    trained: list[int] = []
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    again = pipeline(train=failing(toys.train, lambda module: trained.append(1), 0))
    with pytest.raises(CheckpointError, match=r"too little room .* needs [\d,]+ bytes and 1,000 are free") as caught:
        again.run(toys.net(), 0.5, store=tmp_path)
    assert caught.value.hint
    assert not trained
    assert kept(tmp_path) == ["it-000000"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_row_47_a_commit_that_fails_leaves_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    begun(tmp_path, 1)

    def refused(path: Path, parts: Any) -> Any:
        path.write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_file", refused)
        with pytest.raises(CheckpointError, match=f"cannot keep round 1: {os.strerror(number)}") as caught:
            pipeline().run(toys.net(), 0.5, store=tmp_path)
    assert ("bytes and" in caught.value.message) == (number != errno.EROFS)
    assert caught.value.hint
    assert kept(tmp_path) == ["it-000000"]
    assert not left_over(tmp_path)
    assert list(pipeline().stream(toys.net(), 0.5, store=tmp_path)) == uninterrupted()[1:]


def test_row_47_an_interrupt_loses_the_round_in_flight(tmp_path: Path) -> None:
    def interrupt(module: nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(train=failing(toys.train, interrupt, 1)).run(toys.net(), 0.5, store=tmp_path)
    assert kept(tmp_path) == ["it-000000"]
    assert not left_over(tmp_path)
    assert list(pipeline().stream(toys.net(), 0.5, store=tmp_path)) == uninterrupted()[1:]


TERMINATED = """
import os, signal, sys
from tests.faults import test_store_rows as rows
def stop(module):
    os.kill(os.getpid(), signal.SIGTERM)
rows.pipeline(train=rows.failing(rows.toys.train, stop, 1)).run(rows.toys.net(), 0.5, store=sys.argv[1])
"""


def test_row_47_a_terminated_process_loses_the_round_in_flight(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATED, str(tmp_path)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGTERM, done.stderr.decode()[-2000:]  # a shell says 143
    assert kept(tmp_path) == ["it-000000"]
    assert list(pipeline().stream(toys.net(), 0.5, store=tmp_path)) == uninterrupted()[1:]
    assert not left_over(tmp_path)


def test_row_47_a_second_writer_is_refused_and_names_the_first(tmp_path: Path) -> None:
    first = iter(pipeline().stream(toys.net(), 0.5, store=tmp_path))
    next(first)
    with pytest.raises(CheckpointError, match=f"another run writes here \\(process {os.getpid()} on ") as caught:
        list(pipeline().stream(toys.net(), 0.5, store=tmp_path))
    assert "another folder" in caught.value.hint
    assert [result.index for result in first] == [1, 2, 3]
