"""Run folders: what they hold, what they refuse, and what a reader gets back."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fprune import agp, dependency_aware, finetune, l1, level, linear, load, one_shot, run_folder, speed_up
from fprune.checkpoint import disk
from fprune.checkpoint.seal import sealed, unsealed
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
