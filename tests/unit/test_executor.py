"""Rounds that do not depend on each other run anywhere, and nobody can tell where they ran."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from typing import Any

import loky
import pytest
import torch
from distributed import Client
from torch import Tensor, nn

from fprune import Goal, Pipeline, dependency_aware, evaluate, finetune, l1, level, one_shot, speed_up, stage
from fprune.compose import schedule
from fprune.config import Config
from fprune.errors import ConfigTypeError, FpruneError, StageError
from fprune.records import TaskResult
from fprune.stages import nested
from tests.unit.test_run import Memory

X = torch.arange(128.0).reshape(2, 1, 8, 8).remainder(7) - 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 3)
    )


def train(module: nn.Module) -> None:
    """Draws from the global generators: only isolation makes it repeatable."""
    sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        sgd.zero_grad()
        module(torch.randn(2, 1, 8, 8)).square().mean().backward()
        sgd.step()


def total(module: nn.Module) -> float:
    return float(module(X).sum())


@schedule
def scan(target: Config, count: int) -> Iterator[Goal]:
    """Several amounts, each from the origin."""
    for i in range(1, count + 1):
        yield Goal(target.scaled(i / count), start="origin", final=True)


@schedule(needs=("score",))
def generations(target: Config, count: int, size: int) -> Iterator[Goal]:
    """Each generation moves on from the best of the one before."""
    best = 0.5
    for _ in range(count):
        reports: list[Any] = []
        for i in range(size):
            reports += [(yield Goal(target.scaled(best * (i + 1) / size), start="origin", final=True))]
        best = 0.5 + 0.5 * max((report.score, report.index) for report in reports)[1] / (count * size)


@schedule(needs=("score",))
def walk(target: Config, count: int) -> Iterator[Goal]:
    """Reads every report before it goes on."""
    part = 0.5
    for _ in range(count):
        report = yield Goal(target.scaled(part), start="origin", final=True)  # type: ignore[misc]
        part = 0.9 if report.score > 0 else 0.4


class Counting(Executor):
    """Runs at once, and counts what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append(args)
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except FpruneError as error:
            future.set_exception(error)
        return future


def threads() -> AbstractContextManager[Executor]:
    return ThreadPoolExecutor(3)


class Processes(AbstractContextManager[Executor]):
    def __enter__(self) -> Executor:
        return loky.get_reusable_executor(2)  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        return None


class Dask(AbstractContextManager[Executor]):
    def __enter__(self) -> Executor:
        self.client = Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
        return self.client.get_executor()

    def __exit__(self, *_: object) -> None:
        self.client.close()


PIPELINE = generations(2, 3) | l1(dependency_aware) | finetune(train) | evaluate(total) | speed_up()


@pytest.mark.parametrize("made", [threads, Processes, Dask, Counting], ids=["threads", "loky", "dask", "at once"])
def test_any_executor_gives_what_none_gives(made: Any) -> None:
    alone = list(PIPELINE.stream(network(), 0.5, example_inputs=(X,), seed=3))
    with made() if made is not Counting else threads() as executor:
        executor = Counting() if made is Counting else executor
        together = list(PIPELINE.stream(network(), 0.5, example_inputs=(X,), seed=3, executor=executor))
    assert together == alone
    assert [r.report for r in together] == [r.report for r in alone]
    assert [len(r.history) for r in together] == list(range(6))


def settings_now(module: nn.Module) -> float:
    return float(torch.get_num_threads() * 2 + (torch.get_float32_matmul_precision() == "high"))


def test_workers_compute_under_the_settings_of_the_caller() -> None:
    """Sums over other numbers of threads differ in their last bits."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    pipeline = scan(2) | level() | evaluate(settings_now)
    try:
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("high")
        with Processes() as executor:
            found = list(pipeline.stream(network(), 0.5, executor=executor))
            own = executor.submit(torch.get_num_threads).result()
        assert [result.score for result in found] == [7.0, 7.0]
        assert own != 3, "the worker's own setting came back"
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_a_generation_is_given_away_together() -> None:
    executor = Counting()
    stream = PIPELINE.stream(network(), 0.5, example_inputs=(X,), executor=executor)
    given = [len(executor.given) for _ in stream]
    assert given == [3, 3, 3, 6, 6, 6]


def test_a_schedule_that_reads_every_report_runs_here() -> None:
    executor = Counting()
    pipeline = walk(6) | level() | evaluate(total)
    assert list(pipeline.stream(network(), 0.5, executor=executor)) == list(pipeline.stream(network(), 0.5))
    assert executor.given == []


def test_rounds_that_go_on_from_another_run_here() -> None:
    executor = Counting()
    pipeline = scan(3).then(scan(2)) | level() | finetune(train)
    list(pipeline.stream(network(), 0.5, executor=executor))
    assert len(executor.given) == 5
    mixed, pipeline = Counting(), scan(2).then(one_shot()) | level() | finetune(train)
    assert list(pipeline.stream(network(), 0.5, executor=mixed)) == list(pipeline.stream(network(), 0.5))
    assert len(mixed.given) == 2
    ordinary = Counting()
    list((scan(1) | level()).stream(network(), 0.5, executor=ordinary))
    assert ordinary.given == []


def test_a_round_from_the_origin_does_not_see_the_rounds_before() -> None:
    seen: list[int] = []

    @stage
    def watch(result: TaskResult) -> TaskResult:
        seen.append(len(result.history))
        return result

    results = list((scan(3) | level() | watch()).stream(network(), 0.5))
    assert seen == [0, 0, 0]
    assert [len(result.history) for result in results] == [0, 1, 2]


def test_condition_stops_what_runs_ahead() -> None:
    def third(report: Any) -> bool:
        return report.index == 2

    pipeline = scan(6).until(third) | level()
    executor = Counting()
    together = list(pipeline.stream(network(), 0.5, executor=executor))
    assert together == list(pipeline.stream(network(), 0.5))
    assert len(together) == 3


def failing(module: nn.Module) -> float:
    raise ValueError("no data")


def test_the_first_failure_in_order_is_raised() -> None:
    pipeline: Pipeline = scan(4) | level() | evaluate(failing)
    with threads() as executor, pytest.raises(StageError, match=r"round 0, evaluate\(failing\): ValueError: no data"):
        list(pipeline.stream(network(), 0.5, executor=executor))


@contextmanager
def spawned() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@stage
def dies(result: TaskResult, index: int, parent: int) -> TaskResult:
    """A worker that is killed in one round, as by the system when memory runs out."""
    if result.index == index and os.getpid() != parent:
        os._exit(9)
    return result


@pytest.mark.parametrize("made", [Processes, spawned], ids=["loky", "process pool"])
def test_a_worker_that_dies_names_the_round_and_the_run_goes_on(made: Any) -> None:
    pipeline = scan(4) | level() | dies(2, os.getpid())
    kept = Memory()
    with made() as executor, pytest.raises(StageError, match=r"round [0-2]: the executor failed: \w+: ") as caught:
        pipeline.run(network(), 0.5, store=kept, executor=executor)
    assert isinstance(caught.value.__cause__, BrokenExecutor)
    assert "go on from the last one" in caught.value.hint
    # A pool breaks as a whole, so that rounds that were on their way are lost with it; none is kept in part.
    lost = int(caught.value.message.split()[1].rstrip(":"))
    assert [result.index for result in kept.kept] == list(range(lost))
    pipeline.run(network(), 0.5, store=kept)
    assert kept.kept == list(pipeline.stream(network(), 0.5))


def test_a_function_that_cannot_be_sent_to_a_worker() -> None:
    pipeline = scan(2) | level() | evaluate(lambda module: 0.0)
    with spawned() as executor, pytest.raises(StageError, match=r"round 0: the executor failed: .*pickle") as caught:
        list(pipeline.stream(network(), 0.5, executor=executor))
    assert "functions that can be pickled" in caught.value.hint


def test_an_abandoned_stream_starts_nothing_more() -> None:
    ran: list[int] = []

    @stage
    def note(result: TaskResult) -> TaskResult:
        ran.append(result.index)
        return result

    with ThreadPoolExecutor(1) as executor:
        rounds = iter((scan(50) | level() | note()).stream(network(), 0.5, executor=executor))
        next(rounds)
        rounds.close()  # type: ignore[attr-defined]
    assert len(ran) < 50


def test_a_nested_search_inside_a_round_on_an_executor() -> None:
    inner = scan(2) | level() | evaluate(total)
    pipeline = scan(3) | nested(inner)
    with threads() as executor:
        together = list(pipeline.stream(network(), 0.5, executor=executor))
    assert together == list(pipeline.stream(network(), 0.5))


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(ConfigTypeError, match="executor: expected an executor, got 4"):
        (scan(2) | level()).stream(network(), 0.5, executor=4)  # type: ignore[arg-type]


def test_the_structure_travels_by_the_names_of_operators() -> None:
    import pickle

    from fprune.structure import trace

    structure = trace(network(), X)
    again = pickle.loads(pickle.dumps(structure))
    assert [node.op for node in again.graph.nodes] == [node.op for node in structure.graph.nodes]
    assert str(again) == str(structure)


def test_tensors_made_by_threads_are_those_of_one_thread() -> None:
    """The generators of torch are one for the process: isolated blocks take turns."""
    from fprune.isolation import isolated

    def draw(seed: int) -> Tensor:
        with isolated(seed):
            return torch.stack([torch.rand(1000).sum() for _ in range(20)])

    with ThreadPoolExecutor(4) as executor:
        drawn = list(executor.map(draw, range(12)))
    assert all(torch.equal(found, draw(seed)) for seed, found in enumerate(drawn))
