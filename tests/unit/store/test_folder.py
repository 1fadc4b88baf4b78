"""Run folders: what they hold, what they refuse, and what a reader gets back."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fprune import agp, dependency_aware, evaluate, finetune, l1, level, linear, load, one_shot, run_folder, speed_up
from fprune.checkpoint import disk
from fprune.checkpoint.seal import sealed, unsealed
from fprune.compose.call import expression
from fprune.errors import CheckpointError, ConfigTypeError, EnvironmentChanged, RoundDamaged, StageError
from fprune.records import TaskResult
from tests.unit import toys

PIPELINE = agp(3) | level()


def run(folder: Path, **options: Any) -> list[TaskResult]:
    return list(PIPELINE.stream(toys.net(), 0.5, store=run_folder(folder, **options)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewritten(path: Path, change: dict[str, Any]) -> None:
    """Give a sealed record other values and a digest that fits them."""
    record: dict[str, Any] = {**unsealed(path.read_bytes(), path.name).value, **change}  # type: ignore[dict-item]
    path.write_bytes(sealed(record, path.name))


def test_a_folder_holds_a_description_the_origin_and_the_last_two_rounds(tmp_path: Path) -> None:
    run(tmp_path / "a")
    assert names(tmp_path / "a") == ["it-000002", "it-000003", "lock", "origin.safetensors", "run.json"]
    assert names(tmp_path / "a/it-000003") == ["manifest.json", "state.safetensors"]


def test_every_round_is_kept_when_asked(tmp_path: Path) -> None:
    results = run(tmp_path / "a", keep="all")
    assert [name for name in names(tmp_path / "a") if name.startswith("it-")] == [f"it-00000{i}" for i in range(4)]
    for result in results:
        assert load(tmp_path / "a", toys.net(), round=result.index) == result


def test_a_round_is_loaded_into_another_instance(tmp_path: Path) -> None:
    *_, last = run(tmp_path / "a")
    other = toys.net()
    nn.init.zeros_(next(other.parameters()))
    loaded = load(tmp_path / "a", other)
    assert loaded == last
    assert loaded.origin == last.origin


def test_the_best_round_is_kept_and_returned(tmp_path: Path) -> None:
    pipeline, score = linear(4) | level(), {0.125: 2.0, 0.25: 3.0}

    def best(report: Any) -> float:
        return score.get(report.goal.config.rules[0].sparsity, 0.0)

    found = pipeline.run(toys.net(), 0.5, store=tmp_path / "a", best=best)
    assert found.index == 2
    assert "it-000002" in names(tmp_path / "a")
    assert pipeline.run(toys.net(), 0.5, store=tmp_path / "a", best=best) == found
    with pytest.raises(CheckpointError, match="round 1 is the best, and it is not kept any more") as caught:
        pipeline.run(toys.net(), 0.5, store=tmp_path / "a", best=lambda report: report.index == 1)
    assert 'keep="all"' in caught.value.hint


def test_a_saved_result_is_a_folder_of_one_round(tmp_path: Path) -> None:
    result = PIPELINE.run(toys.net(), 0.5)
    result.save(tmp_path / "deep" / "small")
    assert names(tmp_path / "deep") == ["small"]
    assert load(tmp_path / "deep" / "small", toys.net()) == result
    with pytest.raises(CheckpointError, match="there is something already"):
        result.save(tmp_path / "deep" / "small")
    with pytest.raises(CheckpointError, match="no round has run"):
        TaskResult.start(toys.net(), 0.5).save(tmp_path / "start")


def test_a_compact_model_is_loaded_into_its_own_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 6)
    result = (one_shot() | l1(dependency_aware) | speed_up()).run(
        net, [{"op_names": ["0"], "sparsity": 0.5}], example_inputs=(x,)
    )
    result.save(tmp_path / "small")
    module = load(tmp_path / "small", nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))).module()
    assert torch.equal(module(x), result.module()(x))
    assert module[0].out_features == 4


# ------------------------------------------------------------------------------------------------------- other runs


OTHERS: list[tuple[str, Any]] = [
    (r"pipeline: 'agp\(3\) \| level\(\)' there, 'agp\(4\) \| level\(\)' here", {"pipeline": agp(4) | level()}),
    (r"config: \[{'sparsity': 0.5}\] there, \[{'sparsity': 0.6}\] here", {"config": 0.6}),
    ("seed: 0 there, 1 here", {"seed": 1}),
    ("module '1' is not there, was BatchNorm1d", {"net": nn.Sequential(nn.Linear(3, 3))}),
]


@pytest.mark.parametrize(("message", "change"), OTHERS, ids=[next(iter(change)) for _, change in OTHERS])
def test_another_run_is_refused_with_the_difference(message: str, change: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "a")
    before = snapshot(tmp_path / "a")
    given = {"pipeline": PIPELINE, "config": 0.5, "seed": 0, "net": toys.net(), **change}
    with pytest.raises(CheckpointError, match=message) as caught:
        list(given["pipeline"].stream(given["net"], given["config"], seed=given["seed"], store=tmp_path / "a"))
    assert "another folder" in caught.value.hint
    assert snapshot(tmp_path / "a") == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    run(tmp_path / "a")
    other = toys.net()
    nn.init.zeros_(other[0].weight)
    with pytest.raises(CheckpointError, match=r"the values of the network differ: 'params/0\.weight'"):
        list(PIPELINE.stream(other, 0.5, store=tmp_path / "a"))


def test_other_masks_are_another_run(tmp_path: Path) -> None:
    run(tmp_path / "a")
    masks = {"0.weight": torch.arange(toys.net()[0].weight.numel()).reshape(toys.net()[0].weight.shape) > 0}
    with pytest.raises(CheckpointError, match=r"masks/0\.weight"):
        list(PIPELINE.stream(toys.net(), 0.5, store=tmp_path / "a", masks=masks))


def test_a_run_goes_on_from_its_own_result_and_another_forks(tmp_path: Path) -> None:
    results = run(tmp_path / "a", keep="all")
    again = load(tmp_path / "a", toys.net(), round=1)
    assert list(PIPELINE.stream(again, store=tmp_path / "a")) == []
    fork = agp(3) | level() | finetune(toys.train)
    first = list(fork.stream(again, store=tmp_path / "b"))
    assert [result.index for result in first] == [2, 3]
    assert list(fork.stream(again, store=tmp_path / "b")) == []
    assert fork.run(again, store=tmp_path / "b") == first[-1]
    with pytest.raises(CheckpointError, match="it goes on from a round 1, not from a round 2 that is given here"):
        list(fork.stream(results[2], store=tmp_path / "b"))
    with pytest.raises(CheckpointError, match="it goes on from a round 1, not from the network that is given here"):
        list(fork.stream(toys.net(), 0.5, store=tmp_path / "b"))
    other = again.replace(notes=("another",))
    with pytest.raises(CheckpointError, match="it goes on from a round 1, not from a round 1 that is given here"):
        list(fork.stream(other, store=tmp_path / "b"))


# ----------------------------------------------------------------------------------------------------------- damage


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped tensors": ("state.safetensors", flipped),
    "flipped manifest": ("manifest.json", flipped),
    "short": ("state.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-8])),
    "empty": ("manifest.json", lambda path: path.write_bytes(b"")),
    "gone": ("state.safetensors", lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_round_is_named_and_the_one_before_is_taken(damage: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    name, change = DAMAGES[damage]
    change(tmp_path / "a/it-000003" / name)
    with pytest.warns(RoundDamaged, match=f"it-000003.*{name}.*goes on from round 2"):
        assert load(tmp_path / "a", toys.net()) == whole[2]
    with pytest.warns(RoundDamaged, match="goes on from round 2"):
        assert run(tmp_path / "a") == whole[3:]
    assert load(tmp_path / "a", toys.net()) == whole[3]


def test_when_no_round_can_be_read_each_reason_is_told(tmp_path: Path) -> None:
    run(tmp_path / "a")
    for index in (2, 3):
        flipped(tmp_path / f"a/it-00000{index}/state.safetensors")
    with pytest.raises(CheckpointError, match=r"no round can be read.*it-000003.*it-000002"):
        run(tmp_path / "a")


def test_a_round_of_another_run_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path / "a")
    list(PIPELINE.stream(toys.net(), 0.6, store=tmp_path / "b"))
    shutil.rmtree(tmp_path / "a/it-000003")
    shutil.copytree(tmp_path / "b/it-000003", tmp_path / "a/it-000003")
    with pytest.warns(RoundDamaged, match="belongs to another run"):
        assert load(tmp_path / "a", toys.net()).index == 2


# ---------------------------------------------------------------------------------------------------- surroundings


def test_another_environment_is_a_warning_or_an_error(tmp_path: Path) -> None:
    run(tmp_path / "a")
    path = tmp_path / "a/run.json"
    description: Any = unsealed(path.read_bytes(), "run.json").value
    old = disk.digest_of(path.read_bytes())
    rewritten(path, {"environment": {**description["environment"], "threads": 99}})
    for index in (2, 3):  # they name the description by its digest
        manifest = tmp_path / f"a/it-00000{index}/manifest.json"
        assert json.loads(manifest.read_bytes())["record"]["run"] == old
        rewritten(manifest, {"run": disk.digest_of(path.read_bytes())})
    with pytest.warns(EnvironmentChanged, match="threads: 99 then"):
        assert run(tmp_path / "a") == []
    with pytest.raises(CheckpointError, match="threads: 99 then") as caught:
        run(tmp_path / "a", strict_env=True)
    assert "strict_env" in caught.value.hint


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(CheckpointError, match=r"not a run, and not empty: it holds 'thesis\.tex'"):
        run(tmp_path)
    assert names(tmp_path) == ["lock", "thesis.tex"]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    stream = iter(PIPELINE.stream(toys.net(), 0.5, store=tmp_path / "a"))
    next(stream)
    with pytest.raises(CheckpointError, match=r"another run writes here \(process \d+ on "):
        next(iter(PIPELINE.stream(toys.net(), 0.5, store=tmp_path / "a")))
    del stream
    assert [result.index for result in run(tmp_path / "a")] == [1, 2, 3]


def test_too_little_room_is_told_before_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def train(module: nn.Module) -> None:
        begun.append(1)

    stream = iter((agp(3) | level() | finetune(train)).stream(toys.net(), 0.5, store=tmp_path / "a"))
    next(stream)
    monkeypatch.setattr(disk, "free_bytes", lambda path: 100)
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ bytes and 100 are free"):
        next(stream)
    assert len(begun) == 1


@pytest.mark.parametrize(("option", "value"), [("keep", "best"), ("strict_env", 1)])
def test_options_are_checked_when_written(option: str, value: object) -> None:
    with pytest.raises(ConfigTypeError, match=option):
        run_folder("a", **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("round_", [True, "last", 1.0])
def test_a_round_is_a_number_or_a_word(round_: Any, tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(ConfigTypeError, match="round: expected a number"):
        load(tmp_path / "a", toys.net(), round=round_)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(CheckpointError, match="round 1 is not kept; there are 2, 3"):
        load(tmp_path / "a", toys.net(), round=1)
    with pytest.raises(CheckpointError, match=r"there is no run\.json"):
        load(tmp_path, toys.net())
    with pytest.raises(CheckpointError, match="the network is another one than the template"):
        load(tmp_path / "a", nn.Linear(2, 2))


def test_a_round_that_fails_is_not_kept_and_can_be_run_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def train(module: nn.Module) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("out of luck")

    pipeline = agp(3) | level() | finetune(train)
    with pytest.raises(StageError, match="round 2"):
        list(pipeline.stream(toys.net(), 0.5, store=tmp_path / "a"))
    assert not [name for name in names(tmp_path / "a") if name.startswith(".")]
    assert [result.index for result in pipeline.stream(toys.net(), 0.5, store=tmp_path / "a")] == [2, 3]


# ---------------------------------------------------------------------------------------------- what goes into a folder


def test_the_order_of_dimensions_in_memory_survives(tmp_path: Path) -> None:
    """A convolution in channels last sums in another order."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)

    def train(module: nn.Module) -> None:
        sgd = torch.optim.SGD(module.parameters(), lr=0.1)
        module(torch.ones(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
        sgd.step()

    pipeline = agp(2) | level() | finetune(train)
    whole = list(pipeline.stream(net(), 0.5))
    list(zip(range(1), pipeline.stream(net(), 0.5, store=tmp_path / "a"), strict=False))
    rest = list(pipeline.stream(net(), 0.5, store=tmp_path / "a"))
    assert rest == whole[1:]
    assert rest[-1].model["0.weight"].stride() == whole[-1].model["0.weight"].stride()
    with pytest.raises(CheckpointError, match="another order, such as channels last"):
        list(pipeline.stream(net().to(memory_format=torch.contiguous_format), 0.5, store=tmp_path / "a"))


SETTINGS: list[tuple[str, Any]] = [
    (r"module '0' has stride \[1, 1\], had \[2, 2\]", lambda net: setattr(net[0], "stride", (1, 1))),
    (r"module '1' has negative_slope 0.9, had 0.1", lambda net: setattr(net[1], "negative_slope", 0.9)),
    ("modes: ", lambda net: net.eval()),
    ("modes: ", lambda net: net[0].weight.requires_grad_(False)),
]


@pytest.mark.parametrize(("message", "change"), SETTINGS, ids=["stride", "slope", "mode", "frozen"])
def test_a_network_with_other_settings_is_another_one(message: str, change: Any, tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.LeakyReLU(0.1))

    list(PIPELINE.stream(net(), 0.5, store=tmp_path / "a"))
    other = net()
    change(other)
    with pytest.raises(CheckpointError, match=message):
        list(PIPELINE.stream(other, 0.5, store=tmp_path / "a"))


def test_an_option_whose_repr_has_an_address_is_the_same_in_another_process(tmp_path: Path) -> None:
    class Loader:
        def __init__(self) -> None:
            self.batches = [1]

        def __repr__(self) -> str:
            return object.__repr__(self)

        def __call__(self, module: nn.Module) -> float:
            return 0.5

    results = [
        list((agp(2) | level() | evaluate(Loader())).stream(toys.net(), 0.5, store=tmp_path / "a")) for _ in "ab"
    ]
    assert [len(found) for found in results] == [3, 0]
    assert expression({"b", "a"}) == expression({"a", "b"}) == "{'a', 'b'}"


def test_a_damaged_first_network_is_written_anew(tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    flipped(tmp_path / "a/origin.safetensors")
    with pytest.raises(CheckpointError, match=r"origin\.safetensors"):
        load(tmp_path / "a", toys.net())
    with pytest.warns(RoundDamaged, match="it is written anew"):
        run(tmp_path / "a")
    assert load(tmp_path / "a", toys.net()) == whole[-1]


def test_the_best_of_a_fork_is_one_of_its_own_rounds(tmp_path: Path) -> None:
    run(tmp_path / "a", keep="all")
    fork = agp(3) | level() | finetune(toys.train)
    best = fork.run(load(tmp_path / "a", toys.net(), round=1), store=tmp_path / "b")
    assert load(tmp_path / "b", toys.net(), round="best") == best


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def train(module: nn.Module) -> None:
        os.chdir(tmp_path / "elsewhere")

    (agp(2) | level() | finetune(train)).run(toys.net(), 0.5, store="runs/a")
    assert "run.json" in names(tmp_path / "runs/a")


def test_a_folder_that_is_taken_away_is_a_clear_error(tmp_path: Path) -> None:
    stream = iter(PIPELINE.stream(toys.net(), 0.5, store=tmp_path / "a"))
    next(stream)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(CheckpointError, match="cannot keep the next round"):
        next(stream)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forked workers without fork")
def test_a_forked_worker_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    stream = iter(PIPELINE.stream(toys.net(), 0.5, store=tmp_path / "a"))
    next(stream)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    del stream  # the parent lets go, the child lives on
    try:
        assert [result.index for result in run(tmp_path / "a")] == [1, 2, 3]
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
