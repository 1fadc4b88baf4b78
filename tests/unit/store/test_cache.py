"""A cache of stages: the same results as without, and nothing is run that was run before."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import fprune
from fprune import (
    Config,
    Model,
    Pipeline,
    Stage,
    TaskResult,
    agp,
    dependency_aware,
    evaluate,
    finetune,
    keyed,
    l1,
    level,
    lottery,
    nested,
    one_shot,
    per_layer,
    reset_weight,
    run_folder,
    speed_up,
    stage,
    stage_cache,
    tap,
)
from fprune.checkpoint import disk
from fprune.compose import Factory, word
from fprune.errors import ConfigTypeError, NotKept, RoundDamaged
from fprune.hashing import digest
from fprune.store import cache as caching
from tests.laws.tables import NETS, PRUNERS
from tests.unit.toys import X, look, net, remember, score, train

INPUTS = (X,)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was run, stage by stage, since the list was last cleared."""
    found: list[str] = []

    def noted(what: str, *rest: Any) -> TaskResult:
        found.append(what)
        return isolated(what, *rest)

    isolated = word._isolated
    monkeypatch.setattr(word, "_isolated", noted)
    return found


def results(pipeline: Pipeline, store: Any = None, config: Any = 0.5, **options: Any) -> list[TaskResult]:
    options = {"example_inputs": INPUTS, **options}
    return list(pipeline.stream(options.pop("model", net()), config, store=store, **options))


def stages_of(pipeline: Pipeline) -> list[str]:
    return [repr(call) for call in pipeline.stage.calls]


# The same results


def momentum(module: nn.Module, state: Any) -> tuple[dict[str, float], Any]:
    sgd = torch.optim.SGD(module.parameters(), lr=0.125, momentum=0.5)
    if state is not None:
        sgd.load_state_dict(state)
    sgd.zero_grad()
    module(X).square().mean().backward()
    sgd.step()
    return {"seen": 0.0 if state is None else 1.0}, sgd.state_dict()


inner = one_shot() | level() | evaluate(score)
STAGES: dict[str, Stage] = {
    "finetune": level() | finetune(train),
    "finetune, carried": l1(dependency_aware) | finetune(momentum, carries=True) | speed_up(),
    "evaluate": level() | evaluate(score),
    "evaluate, nan": level() | evaluate(score) | evaluate(lambda module: float("nan"), nan="record"),
    "reset_weight": finetune(train) | level() | reset_weight(),
    "speed_up": l1(dependency_aware) | speed_up() | finetune(train),
    "speed_up, graph": l1(dependency_aware) | speed_up(style="graph") | finetune(train),
    "speed_up, twice": l1(dependency_aware) | speed_up() | l1(dependency_aware) | speed_up() | reset_weight(),
    "tap": level() | tap(look),
    "nested": nested(inner),
    "nested, config": nested(inner, keep="config") | level(),
    "nested, tapped": nested(inner | tap(look)),
    "a user's": level() | remember("a") | remember("a") | remember("b"),
}
SCHEDULES: dict[str, Any] = {
    "agp": agp(2),
    "lottery": lottery(2),
    "then": one_shot().then(one_shot()),
    "origin": fprune.scan((0.25, 0.5)),
}


def bits(results: list[TaskResult]) -> list[Any]:
    """Results as what compares by value, which the program of a graph does not."""
    codes = [getattr(r.model.skeleton, "code", None) for r in results]
    models = [Model(r.origin.skeleton, r.model.params, r.model.buffers, r.model.training) for r in results]
    plain = [
        r.replace(model=m, task=attrs.evolve(r.task, model=m)) if code is not None else r
        for r, m, code in zip(results, models, codes, strict=True)
    ]
    return [codes, plain]


def compare(pipeline: Pipeline, folder: Path, ran: list[str], **options: Any) -> None:
    """Without a cache, with an empty one, and with a full one: the same to the bit, and the last runs nothing."""
    bare = results(pipeline, **options)
    cold = results(pipeline, stage_cache(folder), **options)
    ran.clear()
    warm = results(pipeline, stage_cache(folder), **options)
    assert bits(bare) == bits(cold) == bits(warm)
    assert digest([r.model for r in bare]) == digest([r.model for r in warm])
    assert [r.report for r in bare] == [r.report for r in warm]
    always = [repr(call) for call in pipeline.stage.calls if call.reads in ("world", "nothing")]
    assert [what for what in ran if what in stages_of(pipeline)] == len(bare) * always


@pytest.mark.parametrize("name", STAGES)
def test_a_cache_changes_no_result(name: str, tmp_path: Path, ran: list[str]) -> None:
    compare(agp(2) | STAGES[name], tmp_path, ran)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_cache_changes_no_result_of_a_schedule(name: str, tmp_path: Path, ran: list[str]) -> None:
    compare(SCHEDULES[name] | finetune(train) | level() | evaluate(score), tmp_path, ran)


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.name)
def test_a_cache_changes_no_result_of_a_pruner(pruner: Any, tmp_path: Path, ran: list[str]) -> None:
    case = NETS[pruner.net]
    options = {"model": case.model, "example_inputs": case.structure.inputs}
    compare(one_shot() | pruner.make(per_layer), tmp_path, ran, **options)


def test_every_stage_of_the_library_is_in_the_tables() -> None:
    public = {
        name
        for name in dir(fprune)
        if isinstance(getattr(fprune, name), Factory) and getattr(fprune, name).lifts != "schedule"
    }
    assert public == {name.split(",")[0] for name in STAGES if name != "a user's"} | {
        pruner.name.split(",")[0] for pruner in PRUNERS
    }


# Nothing twice


def test_another_pruner_reruns_itself_and_what_follows(tmp_path: Path, ran: list[str]) -> None:
    results(one_shot() | finetune(train) | level() | evaluate(score), stage_cache(tmp_path))
    ran.clear()
    results(one_shot() | finetune(train) | l1() | evaluate(score), stage_cache(tmp_path))
    assert ran == ["l1()", "evaluate(score)"]


def test_a_stage_at_the_end_reruns_nothing_else(tmp_path: Path, ran: list[str]) -> None:
    results(agp(2) | level() | finetune(train), stage_cache(tmp_path))
    ran.clear()
    longer = results(agp(2) | level() | finetune(train) | evaluate(score), stage_cache(tmp_path))
    assert ran == 3 * ["evaluate(score)"]
    assert longer == results(agp(2) | level() | finetune(train) | evaluate(score))


def test_what_follows_a_compaction_that_was_not_run_again_is_the_same(tmp_path: Path, ran: list[str]) -> None:
    first = agp(2) | l1(dependency_aware) | speed_up()
    results(first, stage_cache(tmp_path))
    ran.clear()
    longer = first | l1(dependency_aware) | speed_up()
    found = results(longer, stage_cache(tmp_path))
    assert ran.count("speed_up()") == ran.count("l1(dependency_aware)") == 3
    assert found == results(longer)


def test_a_users_stage_reads_what_was_reported_unless_it_says_otherwise(tmp_path: Path, ran: list[str]) -> None:
    @stage
    def whole(result: TaskResult) -> TaskResult:
        return result.replace(notes=(*result.notes, f"score {result.score}"))

    @stage(reads="tensors")
    def bare(result: TaskResult) -> TaskResult:
        return result.replace(notes=(*result.notes, f"score {result.score}"))

    results(one_shot() | level() | evaluate(score) | whole() | bare(), stage_cache(tmp_path))
    ran.clear()
    other = results(one_shot() | level() | evaluate(lambda module: 0.25) | whole() | bare(), stage_cache(tmp_path))
    assert ran == ["evaluate(<lambda>)", "whole()"]
    assert other[0].notes == ("score 0.25", "score None")


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"seed": 1}, ["finetune(train)", "level()", "evaluate(score)"]),
        ({"model": net(1)}, ["finetune(train)", "level()", "evaluate(score)"]),
        ({"config": 0.25}, ["finetune(train)", "level()", "evaluate(score)"]),
        ({"example_inputs": (X[:2],)}, ["finetune(train)", "level()", "evaluate(score)"]),
        ({"masks": {"0.weight": torch.arange(8)[:, None] > 0}}, ["finetune(train)", "level()", "evaluate(score)"]),
        ({}, []),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_input_is_another_key(
    changes: dict[str, Any], rerun: list[str], tmp_path: Path, ran: list[str]
) -> None:
    pipeline = one_shot() | finetune(train) | level() | evaluate(score)
    results(pipeline, stage_cache(tmp_path))
    ran.clear()
    results(pipeline, stage_cache(tmp_path), **changes)
    assert ran == rerun


def test_another_environment_is_another_key(tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    results(one_shot() | level(), stage_cache(tmp_path))
    here = caching.environment()
    monkeypatch.setattr(caching, "environment", lambda device: attrs.evolve(here, threads=here.threads + 1))
    ran.clear()
    results(one_shot() | level(), stage_cache(tmp_path))
    assert ran == ["level()"]


def test_an_edited_function_is_another_key(tmp_path: Path, ran: list[str]) -> None:
    def edited(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "edited"}
        exec(f"def rate(module):\n    return {text}", space)
        return space["rate"]

    for text, times in (("0.5", 1), ("0.5  # the same", 0), ("0.25", 1), ("0.5", 0)):
        ran.clear()
        found = results(one_shot() | level() | evaluate(edited(text)), stage_cache(tmp_path))
        assert ran.count("evaluate(rate)") == times and "level()" not in ran[1:]
        assert found[0].score == float(text.split()[0])


def test_a_changed_closure_value_is_another_key(tmp_path: Path, ran: list[str]) -> None:
    def scaled(factor: float) -> Callable[[nn.Module], float]:
        return lambda module: factor

    scores = [results(one_shot() | level() | evaluate(scaled(f)), stage_cache(tmp_path))[0].score for f in (1, 2, 1)]
    assert scores == [1, 2, 1] and ran.count("evaluate(<lambda>)") == 2


def test_rounds_that_need_not_run_trace_nothing(tmp_path: Path, ran: list[str]) -> None:
    pipeline = agp(2) | l1(dependency_aware) | finetune(train)
    results(pipeline, stage_cache(tmp_path))
    assert ran[0] == "tracing the model"
    ran.clear()
    results(pipeline, stage_cache(tmp_path))
    assert ran == []


def test_a_result_goes_on_in_a_cache(tmp_path: Path, ran: list[str]) -> None:
    pipeline = agp(3) | l1(dependency_aware) | speed_up() | finetune(momentum, carries=True)
    whole = results(pipeline, stage_cache(tmp_path))
    ran.clear()
    assert list(pipeline.stream(whole[1], store=stage_cache(tmp_path))) == whole[2:]
    assert ran == []


def test_rounds_made_together_share_a_cache(tmp_path: Path, ran: list[str]) -> None:
    pipeline = fprune.scan((0.25, 0.5)) | level() | evaluate(score)
    with ThreadPoolExecutor(2) as executor:
        cold = results(pipeline, stage_cache(tmp_path), executor=executor)
        ran.clear()
        assert results(pipeline, stage_cache(tmp_path), executor=executor) == cold == results(pipeline)
    assert len(ran) == 2 * len(cold)  # those of the last comparison


def test_untouched_tensors_are_shared_and_not_kept_again(tmp_path: Path) -> None:
    pipeline = one_shot() | level() | evaluate(score) | reset_weight()
    results(pipeline, stage_cache(tmp_path))
    seen: list[TaskResult] = []
    results(one_shot() | level() | tap(seen.append) | evaluate(score) | tap(seen.append), stage_cache(tmp_path))
    assert seen[0].model is seen[1].model and seen[0].masks is seen[1].masks
    held = [path.stat().st_size for path in tmp_path.glob("*/state.safetensors")]
    weights = 4 * (8 * 6 + 4 * 8)
    assert sorted(held)[0] < 100 and sum(held) < weights + 1000


def test_a_run_folder_and_a_cache_work_together(tmp_path: Path, ran: list[str]) -> None:
    pipeline, cache = agp(3) | level() | finetune(train), stage_cache(tmp_path / "cache")
    bare = results(pipeline)
    store = run_folder(tmp_path / "a", cache=cache)
    stream = iter(pipeline.stream(net(), 0.5, example_inputs=INPUTS, store=store))
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    ran.clear()
    results(pipeline, run_folder(tmp_path / "a", cache=cache))
    assert ran == 2 * ["level()", "finetune(train)"]
    ran.clear()
    assert results(pipeline, run_folder(tmp_path / "b", cache=cache)) == bare and ran == []


# Told beforehand


def told(pipeline: Pipeline, store: Any) -> list[str]:
    rows = pipeline.explain(net(), 0.5, example_inputs=INPUTS, store=store).kept
    return [" ".join(row) for row in rows]


def test_explain_tells_what_would_be_used_again(tmp_path: Path, ran: list[str]) -> None:
    cache, pipeline = stage_cache(tmp_path), lottery(2) | level() | finetune(train)
    assert told(pipeline, cache) == ["0 level() runs", "0 finetune(train) unknown", "1, ...  unknown"]
    results(pipeline, cache)
    before = sorted(path.name for path in tmp_path.iterdir())
    ran.clear()
    assert told(pipeline, cache) == [f"{i} {name} reused" for i in (0, 1) for name in ("level()", "finetune(train)")]
    assert told(pipeline | evaluate(score) | reset_weight(), cache) == [
        "0 level() reused",
        "0 finetune(train) reused",
        "0 evaluate(score) runs",
        "0 reset_weight() unknown",
        "1, ...  unknown",
    ]
    assert told(lottery(2) | level() | tap(look) | finetune(train), cache)[:3] == [
        "0 level() reused",
        "0 tap(look) runs",
        "0 finetune(train) reused",
    ]
    assert ran == [] and sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_explain_tells_comes_true(tmp_path: Path, ran: list[str]) -> None:
    results(agp(2) | level() | finetune(train), stage_cache(tmp_path))
    other = agp(2) | level() | finetune(train) | l1()
    rows = [row.split() for row in told(other, stage_cache(tmp_path))]
    ran.clear()
    results(other, stage_cache(tmp_path))
    assert [row[1] for row in rows if row[2:] == ["runs"]] == ran[:1]


def test_explain_tells_damage_and_leaves_it(tmp_path: Path) -> None:
    results(one_shot() | level(), stage_cache(tmp_path))
    (path,) = tmp_path.glob("*/outcome.json")
    path.write_bytes(b"")
    assert told(one_shot() | level(), stage_cache(tmp_path))[0] == "0 level() runs"
    assert path.read_bytes() == b""


def test_explain_tells_which_rounds_of_a_folder_are_done(tmp_path: Path) -> None:
    pipeline, folder, cache = lottery(3) | level() | finetune(train), tmp_path / "a", stage_cache(tmp_path / "cache")
    assert told(pipeline, folder)[0] == "0 level() runs" and not folder.exists()
    stream = iter(pipeline.stream(net(), 0.5, example_inputs=INPUTS, store=folder))
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    done = ["0 all done", "1 all done"]
    assert told(pipeline, folder) == [*done, "2 level() runs", "2 finetune(train) unknown", "3, ...  unknown"]
    results(pipeline, cache)
    both = run_folder(folder, cache=cache)
    assert told(pipeline, both) == [*done, "2 level() reused", "2 finetune(train) reused"]
    shown = pipeline.explain(net(), 0.5, example_inputs=INPUTS, store=both)
    assert "What is there already" in str(shown) and "reused" in shown._repr_html_()
    with pytest.raises(fprune.errors.CheckpointError, match="holds another run"):
        told(lottery(3) | level(), folder)


def descend(module: nn.Module) -> None:
    module(X).square().mean().backward()
    torch.optim.SGD(module.parameters(), lr=0.125).step()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_the_callers_settings_change_nothing(mode: Any, tmp_path: Path, ran: list[str]) -> None:
    pipeline, module = one_shot() | l1(dependency_aware) | speed_up() | finetune(momentum, carries=True), net()
    bare = results(pipeline | finetune(descend), model=module)
    results(pipeline, stage_cache(tmp_path), model=module)
    ran.clear()
    with mode():
        found = results(pipeline | finetune(descend), stage_cache(tmp_path), model=module)
        (read,) = results(pipeline, stage_cache(tmp_path), model=module)
    assert found == bare and ran == ["finetune(descend)"]
    assert not any(value.is_inference() for value in (*read.model.values(), *read.model.buffers.values()))


def test_what_makes_a_round_travels_to_other_processes(tmp_path: Path, ran: list[str]) -> None:
    pipeline = one_shot() | level() | finetune(train)
    bare = results(pipeline, stage_cache(tmp_path))
    stream = pipeline.stream(net(), 0.5, example_inputs=INPUTS, store=stage_cache(tmp_path))
    ran.clear()
    there = attrs.evolve(stream, step=pickle.loads(pickle.dumps(stream.step)))
    assert list(there) == bare and ran == []


# In other processes


PROGRAM = """
import sys
from fprune import agp, l1, dependency_aware, speed_up, finetune, stage_cache
from fprune.compose import word
from tests.unit.store.test_cache import results, shared
isolated = word._isolated
def noted(what, *rest):
    print("ran", what)
    return isolated(what, *rest)
word._isolated = noted
results(shared(), stage_cache(sys.argv[1]))
"""


def shared() -> Pipeline:
    return agp(1) | l1(dependency_aware) | speed_up() | finetune(train)


def test_another_process_reads_what_this_one_kept(tmp_path: Path) -> None:
    results(shared(), stage_cache(tmp_path))
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, env=env, check=True)
    assert done.stdout == ""


def dying(k: int) -> Iterator[None]:
    """Let this process end without a word at the k-th call of the operating system."""
    calls = iter(range(k))

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(calls, None) is None:
                os._exit(9)
            return call(*args, **kwargs)

        return counted

    for name in ("write_file", "rename", "make_folder", "sync_folder"):
        setattr(disk, name, wrap(getattr(disk, name)))
    yield


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_no_half_outcome(tmp_path: Path, ran: list[str]) -> None:
    pipeline = one_shot() | level() | evaluate(score)
    bare = results(pipeline)
    codes: list[int] = []
    for k in range(40):
        folder = tmp_path / str(k)
        pid = os.fork()
        if pid == 0:
            next(dying(k))
            results(pipeline, stage_cache(folder))
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        assert results(pipeline, stage_cache(folder)) == bare, f"after a death at call {k}"
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and codes.count(9) >= 8


def test_what_was_left_unfinished_is_removed_a_day_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-1-a", tmp_path / ".tmp-1-b"
    old.mkdir(), new.mkdir()
    os.utime(old, (0, 0))
    results(one_shot() | level(), stage_cache(tmp_path))
    assert not old.exists() and new.exists()


def test_an_outcome_that_another_process_kept_first_is_no_trouble(tmp_path: Path) -> None:
    pipeline, done = one_shot() | level() | evaluate(score), [False]

    def slow(module: nn.Module) -> float:
        if not done[0]:
            done[0] = True
            results(one_shot() | level() | evaluate(keyed(lambda module: 1.0, "slow")), stage_cache(tmp_path))
        return 1.0

    found = results(one_shot() | level() | evaluate(keyed(slow, "slow")), stage_cache(tmp_path))
    assert done == [True] and found[0].score == 1.0 and pipeline.stage


# Damage


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip,
    "cut": lambda data: data[:-3],
    "empty": lambda data: b"",
    "longer": lambda data: data + b" ",
}


@pytest.mark.parametrize("file", ["outcome.json", "state.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_warning_and_the_stage_runs_again(file: str, damage: str, tmp_path: Path, ran: list[str]) -> None:
    pipeline = one_shot() | level()
    bare = results(pipeline, stage_cache(tmp_path))
    (path,) = tmp_path.glob(f"*/{file}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    ran.clear()
    with pytest.warns(RoundDamaged, match=f"{path.name}.*the stage runs again"):
        assert results(pipeline, stage_cache(tmp_path)) == bare
    assert ran == ["level()"]
    assert results(pipeline, stage_cache(tmp_path)) == bare and ran == ["level()"]


@pytest.mark.parametrize("file", ["outcome.json", "state.safetensors"])
def test_a_missing_file_is_damage_too(file: str, tmp_path: Path, ran: list[str]) -> None:
    bare = results(one_shot() | level(), stage_cache(tmp_path))
    next(tmp_path.glob(f"*/{file}")).unlink()
    with pytest.warns(RoundDamaged, match=file):
        assert results(one_shot() | level(), stage_cache(tmp_path)) == bare


def test_an_outcome_under_another_key_is_not_taken_for_it(tmp_path: Path) -> None:
    results(one_shot() | level(), stage_cache(tmp_path), config=0.25)
    (other,) = tmp_path.iterdir()
    (tmp_path / "there").mkdir()
    results(one_shot() | level(), stage_cache(tmp_path / "there"))
    (here,) = (tmp_path / "there").iterdir()
    os.rename(here, tmp_path / "gone")
    os.rename(other, here)
    with pytest.warns(RoundDamaged, match="of another key"):
        assert results(one_shot() | level(), stage_cache(tmp_path / "there")) == results(one_shot() | level())


def test_a_full_disk_costs_the_outcome_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write_file", full)
    with pytest.warns(NotKept, match=r"what level\(\) made is not kept: .*No space left"):
        found = results(one_shot() | level(), stage_cache(tmp_path))
    assert found == results(one_shot() | level()) and not list(tmp_path.iterdir())


def test_a_stage_that_changes_more_than_can_be_kept_runs_each_time(tmp_path: Path, ran: list[str]) -> None:
    @stage
    def aim(result: TaskResult) -> TaskResult:
        return result.replace(task=attrs.evolve(result.task, target=Config(0.75)))

    for _ in range(2):
        ran.clear()
        with pytest.warns(NotKept, match=r"what aim\(\) made is not kept: it changed the target"):
            results(one_shot() | level() | aim(), stage_cache(tmp_path))
        assert "aim()" in ran


# Refused before anything runs


def test_a_loader_is_refused_by_stage_and_argument_when_the_run_is_described(tmp_path: Path) -> None:
    loader = DataLoader([(X, torch.zeros(5, 4))], batch_size=None)

    def loss(model: Any, batch: Any) -> Any:
        return (model(batch[0]) - batch[1]).square().mean()

    pipeline = one_shot() | fprune.taylor(loss, loader)
    with pytest.raises(
        ConfigTypeError, match=r"^taylor\(loss, .*\): batches: a cache cannot tell one DataLoader"
    ) as told:
        pipeline.stream(net(), 0.5, store=stage_cache(tmp_path / "none"))
    assert told.value.hint.endswith('fprune.keyed(value, "batches-v1")') and not (tmp_path / "none").exists()
    given = one_shot() | fprune.taylor(loss, keyed(loader, "zeros-v1"))
    assert results(given, stage_cache(tmp_path)) == results(pipeline)


def test_what_a_tap_looks_with_needs_no_key(tmp_path: Path) -> None:
    seen, loader = list[TaskResult](), DataLoader([1])
    pipeline = one_shot() | level() | tap(lambda result: seen.append(result) if len(loader) else None)
    for times in (1, 2):
        results(pipeline, stage_cache(tmp_path))
        assert len(seen) == times


@pytest.mark.parametrize("wrong", [3, None, b"runs"])
def test_a_cache_is_a_folder(wrong: Any) -> None:
    with pytest.raises(ConfigTypeError, match="stage_cache: expected a folder"):
        stage_cache(wrong)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(fprune.errors.CheckpointError, match=r"file/cache: cannot be used"):
        results(one_shot() | level(), stage_cache(tmp_path / "file" / "cache"))


def test_a_store_is_a_folder_or_a_cache() -> None:
    with pytest.raises(ConfigTypeError, match="store: expected a folder"):
        results(one_shot() | level(), 3)
    with pytest.raises(ConfigTypeError, match="cache: expected a cache"):
        run_folder("runs/a", cache="runs/cache")  # type: ignore[arg-type]
