"""A killed run loses at most the round in flight, shows nothing torn, and ends in the same bits."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ["agp", "annealing", "lottery"]

Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Order]:
    """A process that is warm, and makes trials in children of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.durability.killing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def order(**what: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps({"seed": 0, **what}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield order
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.mark.parametrize("kills", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_runs_killed_at_any_time_end_as_if_nothing_had_happened(nursery, kills):
    report = nursery(runs=NAMES, kills=kills)
    assert report["problems"] == []
    assert report["kills"] >= kills


@pytest.mark.parametrize(
    ("runs", "calls"),
    [
        (["annealing"], [0, 5, 12, 20, 28, 33, 34, 35, 36, 37, 38, 60]),
        pytest.param(["annealing"], range(120), marks=pytest.mark.slow),
        pytest.param(["agp"], range(120), marks=pytest.mark.slow),
        pytest.param(["lottery"], range(120), marks=pytest.mark.slow),
    ],
)
def test_runs_killed_at_any_call_of_the_system_end_as_if_nothing_had_happened(nursery, runs, calls):
    report = nursery(runs=runs, calls=[*calls])
    assert report["problems"] == []
    assert report["kills"] >= 0.8 * len(calls), "most of the calls are made"


@pytest.mark.parametrize(
    ("writer", "runs", "problem"),
    [
        ("in place", ["annealing"], "torn: "),
        ("early name", ["annealing"], "torn: "),
        ("old goes first", ["annealing"], "torn: CheckpointError: "),
        ("forgetful", ["agp"], "wrong: round "),
    ],
)
def test_a_writer_that_is_wrong_is_caught(nursery, writer, runs, problem):
    report = nursery(runs=runs, writer=writer, keep=["last"], calls=[*range(36, 70, 2)])
    assert any(problem in found for found in report["problems"]), report


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["in place", "early name", "old goes first", "forgetful"])
def test_a_writer_that_is_wrong_is_caught_by_kills_at_any_time_too(nursery, writer):
    report = nursery(runs=["agp"] if writer == "forgetful" else NAMES, writer=writer, kills=400)
    assert report["problems"], report
