"""The same run gives the same bits: in every process, in any order of dicts, with any executor, and when resumed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import loky
import pytest

from tests.laws import determinism, pieces
from tests.laws.determinism import ran, told
from tests.project.files import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")


def digests(order: int, hash_seed: str) -> dict[str, str]:
    """What another process makes of all pipelines."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.determinism", str(order)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    return digests(0, "0")


def test_every_public_piece_is_tried(usual: dict[str, str]) -> None:
    assert set(usual) == {*determinism.PIPELINES, *pieces.FACTORIES}
    assert len(set(usual.values())) > len(usual) // 2, "most pipelines do something of their own"


def test_neither_hashes_nor_the_order_of_dicts_play_a_part(usual: dict[str, str]) -> None:
    other = digests(3, "1")
    assert [name for name in usual if other[name] != usual[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("order", range(4, 10))
def test_no_order_plays_a_part(usual: dict[str, str], order: int) -> None:
    other = digests(order, "random")
    assert [name for name in usual if other[name] != usual[name]] == []


SOME = ("together", "coupled", "random", "evolve", "taylor")


@pytest.mark.parametrize("name", SOME)
def test_this_process_is_no_exception(usual: dict[str, str], name: str) -> None:
    assert ran(name, order=5) == usual[name]


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "one thread": lambda: ThreadPoolExecutor(1),
    "two threads": lambda: ThreadPoolExecutor(2),
    "one process": lambda: loky.ProcessPoolExecutor(1),
    "two processes": lambda: loky.ProcessPoolExecutor(2),
}


@pytest.mark.parametrize(
    "where", [pytest.param(name, marks=pytest.mark.slow if "process" in name else ()) for name in EXECUTORS]
)
def test_executors_make_no_difference(usual: dict[str, str], where: str) -> None:
    with EXECUTORS[where]() as executor:
        for name in ("evolve", "scan"):
            assert ran(name, executor=executor) == usual[name], name


LONG = [name for name, factory in pieces.FACTORIES.items() if factory.lifts != "pruner"]


@pytest.mark.parametrize("name", [*determinism.PIPELINES, *LONG])
def test_a_resumed_run_makes_no_difference(name: str) -> None:
    net, config, given = determinism.arguments(0, 0)
    pipeline = determinism.pipeline(name)
    whole = list(pipeline.stream(net, config, **given))
    middle = len(whole) // 2
    for known in {middle, max(0, len(whole) - 2)}:
        resumed = list(pipeline.stream(whole[known]))
        assert [told(result) for result in resumed] == [told(result) for result in whole[known + 1 :]]


@pytest.mark.parametrize("name", determinism.PIPELINES)
def test_a_run_that_goes_on_from_its_folder_makes_no_difference(
    name: str, usual: dict[str, str], tmp_path: Path
) -> None:
    net, config, given = determinism.arguments(0, 0)
    pipeline = determinism.pipeline(name)
    for _ in islice(pipeline.stream(net, config, store=str(tmp_path / "run"), **given), 1):
        pass
    assert told(pipeline.run(net, config, store=str(tmp_path / "run"), **given)) == usual[name]
