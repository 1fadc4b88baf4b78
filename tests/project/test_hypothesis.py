"""Where fprune is installed, hypothesis knows its types."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.project.files import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installation says of fprune: its metadata, with the entry points of pyproject.toml."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "fprune-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fprune\nVersion: 0.1.0\n", encoding="utf-8")
    points = PYPROJECT["project"]["entry-points"]["hypothesis"]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[hypothesis]", *lines, ""]), encoding="utf-8")
    return folder


def run(script: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])), **variables}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


TYPES = """
import torch
for kind in (fprune.Config, fprune.Masks, fprune.Goal, fprune.Report, fprune.Model, fprune.TaskResult):
    @settings(max_examples=3, database=None, deadline=None)
    @given(st.from_type(kind))
    def law(value):
        assert isinstance(value, kind)
        if kind is fprune.Config:
            assert value.rules[0].amounts, "built from the signature, not by the strategy"
    law()
"""


@pytest.mark.parametrize("first", ["hypothesis", "fprune"])
def test_types_of_fprune_are_known_in_either_order(installed: Path, first: str) -> None:
    imports = ["from hypothesis import given, settings, strategies as st", "import fprune"]
    lines = imports if first == "hypothesis" else imports[::-1]
    done = run("\n".join(["import json", *lines, TYPES]), installed)
    assert done.returncode == 0, done.stderr


def test_hypothesis_loads_the_strategies_unless_plugins_are_switched_off(installed: Path) -> None:
    for switch, loaded in (("", True), ("1", False)):
        script = (
            f"import hypothesis, sys; assert ('fprune.strategies' in sys.modules) == {loaded}; import fprune.strategies"
        )
        done = run(script, installed, **({"HYPOTHESIS_NO_PLUGINS": switch} if switch else {}))
        assert done.returncode == 0, done.stderr


def test_without_hypothesis_the_error_says_what_to_install() -> None:
    for module in ("strategies", "testing"):
        script = f"import sys; sys.modules['hypothesis'] = None; import fprune.{module}"
        done = run(script)
        assert done.returncode == 1
        assert 'pip install "fprune[testing]"' in done.stderr.splitlines()[-1], done.stderr


def test_checking_a_law_stores_no_examples(tmp_path: Path) -> None:
    script = """
import fprune
from fprune.testing import check_pruner
check_pruner(fprune.level(), max_examples=2)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stored = {path.name for path in tmp_path.glob("*/*")}
    assert "examples" not in stored, "an example was stored"
