"""The world around a run: disks that are full or closed, signals, and others who write to the same folder."""

import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from fprune.errors import CheckpointError
from tests.durability.runs import RUNS, reference, state

ROOT = Path(__file__).parents[2]
RUN = RUNS["annealing"]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return reference("annealing")


def begun(folder: Path, rounds: int) -> None:
    stream = RUN.stream(folder)
    for _ in range(rounds):
        next(stream)
    stream.close()


def forked(work: Callable[[], None], told: Path) -> int:
    """Do something in a process of its own, which may spoil itself; returns how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where threads are
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except CheckpointError as error:
            told.write_text(str(error))
            os._exit(3)
        except BaseException:
            told.write_text(traceback.format_exc())
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_disk_that_is_full_leaves_the_round_before(tmp_path, expected):
    """A limit on the size of files is as near to a full disk as can be had without one."""
    folder, told = tmp_path / "run", tmp_path / "told"
    begun(folder, 2)
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as the write itself then fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, resource.RLIM_INFINITY))
        begun(folder, 1)

    assert forked(work, told) == 3, told.read_text()
    text = told.read_text()
    assert "File too large" in text
    assert "it needs " in text and "bytes and " in text and "are free" in text
    assert "hint: " in text
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert state(RUN.load(folder)) == expected[1]
    assert [state(result) for result in RUN.stream(folder)] == expected[2:]


def test_a_folder_that_is_closed_is_said_and_left_as_it_is(tmp_path, expected):
    folder, told = tmp_path / "run", tmp_path / "told"
    begun(folder, 2)
    before = sorted(path.name for path in folder.iterdir())
    (folder / "lock").chmod(0o666)
    folder.chmod(0o555)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    tmp_path.chmod(0o777)

    def work() -> None:
        if os.getuid() == 0:
            os.setuid(65534)  # to whom the folder is closed
        begun(folder, 1)

    ended = forked(work, told)
    folder.chmod(0o755)
    assert ended == 3, told.read_text()
    assert "Permission denied" in told.read_text()
    assert str(folder) in told.read_text()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [state(result) for result in RUN.stream(folder)] == expected[2:]


PROGRAM = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.durability.runs import RUNS
for result in RUNS["annealing"].stream(Path(sys.argv[1])):
    print(result.index, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def running(tmp_path):
    """A run in another process, which has committed its first round."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_the_first_is_and_readers_are_not_kept_out(tmp_path, running):
    os.kill(running.pid, signal.SIGSTOP)
    with pytest.raises(CheckpointError, match=rf"another run writes here \(process {running.pid} on "):
        next(RUN.stream(tmp_path / "run"))
    assert RUN.load(tmp_path / "run").index >= 0
    os.kill(running.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_stops_and_can_be_gone_on_with(tmp_path, running, number, expected):
    time.sleep(0.1)
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert running.returncode == -signal.SIGTERM, "a shell shows this as 143"
    else:
        assert "KeyboardInterrupt" in err
    done = max([0, *map(int, out.split())])
    assert RUN.load(tmp_path / "run").index >= done
    rest = [(result.index, state(result)) for result in RUN.stream(tmp_path / "run")]
    assert rest == [(i, expected[i]) for i in range(rest[0][0], len(expected))]
    assert rest[0][0] > done
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []


def test_a_lock_ends_with_the_stream_that_holds_it(tmp_path):
    stream = RUN.stream(tmp_path / "run")
    next(stream)
    with pytest.raises(CheckpointError, match=rf"process {os.getpid()} on ") as caught:
        next(RUN.stream(tmp_path / "run"))
    assert "let" in caught.value.hint
    stream.close()
    assert next(RUN.stream(tmp_path / "run")).index == 1
