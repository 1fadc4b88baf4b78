"""Two runs differ in what was asked, where, and what came of it; equal ones in nothing."""

import json
import shutil
from pathlib import Path

import pytest

from fprune.checkpoint.seal import sealed
from fprune.errors import CheckpointError
from fprune.store.diff import diff_runs
from tests.unit.store.running import run_in


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_in(folder / "a")
    run_in(folder / "again")
    run_in(folder / "more", sparsity=0.75)
    run_in(folder / "filters", filters=True)
    run_in(folder / "other", seed=1)
    run_in(folder / "longer", rounds=4)
    return folder


def test_equal_runs(runs: Path) -> None:
    found = diff_runs(runs / "a", runs / "again")
    assert found.equal and str(found).endswith("are equal") and "none" in found._repr_html_()


def test_another_config(runs: Path) -> None:
    found = diff_runs(runs / "a", runs / "more")
    assert not found.equal and found.settings == (("config", "Config(0.5)", "Config(0.75)"),)
    kinds = {(row[0].split(":")[0], row[0].split(": ")[1]) for row in found.rounds}
    assert ("0", "tensors") not in kinds, "nothing is pruned in round 0, and the training is the same"
    assert {("3", "sparsity"), ("3", "score"), ("3", "goal"), ("3", "tensors")} <= kinds
    assert ("0.weight, elements", "12 of 24", "18 of 24") in found.layers


def test_another_pruner(runs: Path) -> None:
    found = diff_runs(runs / "a", runs / "filters")
    assert [row[0] for row in found.settings] == ["pipeline"] and "level()" in found.settings[0][1]
    assert any(row[0] == "0.weight, channels" for row in found.layers)
    assert found.settings[0][2] in str(found) and found.settings[0][2] in found._repr_html_()


def test_other_weights(runs: Path) -> None:
    found = diff_runs(runs / "a", runs / "other")
    assert [row[0] for row in found.settings] == ["first weights"]
    assert any(row[0] == "0: tensors" for row in found.rounds) and found.layers == ()


def test_a_round_more(runs: Path) -> None:
    rows = {row[0]: row[1:] for row in diff_runs(runs / "a", runs / "longer").rounds}
    assert rows["4: sparsity"] == ("", "0.5")


def test_two_rounds_of_one_run(runs: Path) -> None:
    found = diff_runs(runs / "a" / "it-000001", runs / "a" / "it-000003")
    assert found.settings == () and {row[0].split(":")[0] for row in found.rounds} == {"1 and 3"}
    assert diff_runs(runs / "a" / "it-000002", runs / "again" / "it-000002").equal


def test_another_environment(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "a", tmp_path / "a"))
    record = json.loads((folder / "run.json").read_text())["record"]
    record["environment"]["torch"] = "2.9.0"
    (folder / "run.json").write_bytes(sealed(record, "run.json"))
    settings = {row[0]: row[1:] for row in diff_runs(runs / "a", folder).settings}
    assert settings["torch"][1] == "2.9.0" and [*settings] == ["torch"]


def test_a_damaged_round_is_no_equal_one(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "a", tmp_path / "a"))
    (folder / "it-000001" / "state.safetensors").write_bytes(b"")
    found = diff_runs(runs / "a", folder)
    assert not found.equal and [row[0] for row in found.rounds] == ["1: damaged"]


def test_a_round_that_is_not_there(runs: Path) -> None:
    with pytest.raises(CheckpointError, match=r"round 9 is not kept; there are 0, 1, 2, 3"):
        diff_runs(runs / "a" / "it-000009", runs / "a")
