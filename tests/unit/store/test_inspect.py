"""A folder tells what ran and what of it is damaged, without the network, and nothing in it changes."""

import json
import shutil
from pathlib import Path

import pytest

from fprune.checkpoint.seal import sealed
from fprune.errors import CheckpointError
from fprune.store.inspect import Inspection, inspect_run
from tests.unit.store.running import run_in


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    run_in(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_as_it_was_written(folder: Path) -> None:
    before = bytes_of(folder)
    found = inspect_run(folder)
    assert found.ok and found.problems == () and found.leftovers == 0 and found.seed == 0
    assert found.pipeline == "agp(3) | level() | finetune(train) | evaluate(score)"
    assert [each.index for each in found.kept] == list(found.reports) == [0, 1, 2, 3]
    sizes = [sum(path.stat().st_size for path in (folder / f"it-{i:06d}").iterdir()) for i in range(4)]
    assert [each.bytes for each in found.kept] == sizes
    assert bytes_of(folder) == before


def test_the_table_has_a_line_for_every_round(folder: Path) -> None:
    text = str(inspect_run(folder))
    lines = [line.split() for line in text.splitlines()]
    rounds = [line for line in lines if line and line[0].isdigit() and line[-1] in ("ok", "kept")]
    assert [line[0] for line in rounds] == ["0", "1", "2", "3"] and rounds[-1][1:3] == ["0.5", "0.5"]
    assert "agp(3) | level()" in text and "Config(0.5), seed 0" in text and "torch 2" in text
    assert "4 of 4 rounds kept" in text


def test_the_html_is_one_table_and_remarks(folder: Path) -> None:
    html = inspect_run(folder)._repr_html_()
    assert html.count("<table>") == 2 and "agp(3) | level()" in html and "4 of 4 rounds kept" in html


def test_rounds_that_are_not_kept_are_told_by_the_newest(tmp_path: Path) -> None:
    run_in(tmp_path / "b", keep="last")
    found = inspect_run(tmp_path / "b")
    assert list(found.reports) == [0, 1, 2, 3] and [each.index for each in found.kept] != [0, 1, 2, 3]
    assert found.ok and "not kept" in str(found)


def problem(found: Inspection, index: int) -> str:
    return next(each.problem for each in found.kept if each.index == index)


def test_a_flipped_bit(folder: Path) -> None:
    path = folder / "it-000003" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = inspect_run(folder)
    assert not found.ok and "digest" in problem(found, 3) and "it-000003" in problem(found, 3)
    assert list(found.reports) == [0, 1, 2], "what the newest whole round knows"
    assert problem(found, 3) in str(found)


def test_a_manifest_that_is_cut_short(folder: Path) -> None:
    path = folder / "it-000001" / "manifest.json"
    path.write_bytes(path.read_bytes()[:50])
    found = inspect_run(folder)
    assert not found.ok and "it-000001" in problem(found, 1) and list(found.reports) == [0, 1, 2, 3]


def test_a_round_exchanged_for_that_of_the_same_run_made_otherwise(folder: Path, tmp_path: Path) -> None:
    """Every digest fits; only the chain of parents shows that round 2 was not made from this round 1."""
    other = Path(shutil.copytree(folder, tmp_path / "b"))
    manifest = other / "it-000001" / "manifest.json"
    record = json.loads(manifest.read_text())["record"]
    record["result"]["notes"] = ["edited"]
    manifest.write_bytes(sealed(record, "manifest.json"))
    shutil.rmtree(folder / "it-000001")
    shutil.move(other / "it-000001", folder / "it-000001")
    found = inspect_run(folder)
    assert not found.ok and problem(found, 1) == ""
    assert problem(found, 2) == "it was made from another round 1 than the one that is here"


def test_a_damaged_first_network(folder: Path) -> None:
    path = folder / "origin.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    found = inspect_run(folder)
    assert not found.ok and "origin.safetensors" in found.problems[0] and f"damaged: {found.problems[0]}" in str(found)


def test_what_a_crash_left_behind_is_counted_and_left(folder: Path) -> None:
    (folder / ".tmp-1-x").mkdir()
    found = inspect_run(folder)
    assert found.ok and found.leftovers == 1 and "1 unfinished pieces" in str(found)
    assert (folder / ".tmp-1-x").exists()


def test_a_saved_result(tmp_path: Path) -> None:
    run_in(tmp_path / "b").save(tmp_path / "one")
    found = inspect_run(tmp_path / "one")
    assert found.ok and found.pipeline is None and [each.index for each in found.kept] == [3]
    assert "a result saved by itself" in str(found)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no run\.json"):
        inspect_run(tmp_path)
