"""The README is tried: its Python runs, its commands are the ones CI uses, the names it lists exist."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fprune
from tests.project.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


def blocks(language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(README) if kind == language]


def what_the_reader_brings() -> dict[str, object]:
    """The names that the README says are the reader's own: a network, its input, a loop, a measure, batches."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 4

    def train(module: nn.Module) -> None:
        optimizer = torch.optim.AdamW(module.parameters())
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    def accuracy(module: nn.Module) -> float:
        return float((module(x).argmax(1) == y).float().mean())

    return {"net": net, "x": x, "train": train, "accuracy": accuracy, "batches": [(x, y), (x.flip(0), y.flip(0))]}


def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later blocks may use the names of earlier ones, as a reader does who pastes them one after the other."""
    monkeypatch.chdir(tmp_path)  # they write into runs/
    names = {"__name__": "readme", **what_the_reader_brings()}
    for number, code in enumerate(blocks("python"), 1):
        try:
            exec(compile(code, f"README.md, python block {number}", "exec"), names)
        except Exception as error:
            raise AssertionError(f"python block {number} of README.md fails: {error!r}\n{code}") from error
    assert blocks("python"), "README.md shows no Python"


def own_schedules() -> dict[str, Any]:
    """The schedules that the README writes, without the runs around them."""
    names: dict[str, Any] = {"schedule": fprune.schedule, "Config": fprune.Config, "Goal": fprune.Goal}
    names["Iterator"] = Iterator
    for code in blocks("python"):
        for node in ast.parse(code).body:
            if isinstance(node, ast.FunctionDef) and any("schedule" in ast.unparse(d) for d in node.decorator_list):
                exec(ast.unparse(node), names)
    return names


def sparsities(schedule: fprune.Schedule, score: Callable[[nn.Module], float], target: float) -> list[float]:
    pipeline = schedule | fprune.level() | fprune.evaluate(score)
    return [round(result.report.sparsity, 9) for result in pipeline.stream(nn.Linear(10, 10, bias=False), target)]


def test_the_schedule_that_reads_scores_repeats_a_step_until_it_is_good() -> None:
    scores = iter([0.6, 0.2, 0.1, 0.7, 0.9, 0.9])
    assert sparsities(own_schedules()["patient"](3, floor=0.5), lambda _: next(scores), 0.6) == [
        0.2,
        0.4,
        0.4,
        0.4,
        0.6,
    ]
    assert sparsities(own_schedules()["patient"](2, floor=0.5), lambda _: 0.0, 0.6) == [0.3] * 6


def test_the_schedule_that_branches_comes_back_to_less() -> None:
    def dense_enough(module: nn.Module) -> float:
        return float((module.get_parameter("weight") != 0).double().mean() >= 0.45)

    bisect = own_schedules()["bisect"]
    assert sparsities(bisect(3, floor=0.5), dense_enough, 0.8) == [0.4, 0.6, 0.5, 0.5]
    assert sparsities(bisect(3, floor=0.5), lambda _: 0.0, 0.8) == [0.4, 0.2, 0.1, 0.0]


def test_quick_start_is_short() -> None:
    section = README.split("## Quick start", 1)[1].split("\n## ", 1)[0]
    (code,) = [code for kind, code in BLOCK.findall(section) if kind == "python"][:1]
    lines = [line for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 8, f"the quick start has {len(lines)} lines; 8 are promised"


def test_commands_are_those_of_ci() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("python -m pip")]
    assert len(commands) == 2, f"two set-up commands are promised (the main job, the tests), found {commands}"
    job, tests = commands
    assert "fprune demo" in job and '".[demo]"' in job, f"the first command runs the main job, not {job!r}"
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").replace("pip install --quiet", "pip install")
    assert tests in ci, f".ci/run does not run the README's test command {tests!r}"


def test_listed_names_exist() -> None:
    section = README.split("## What there is", 1)[1].split("\n## ", 1)[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    names = {name for cell in re.findall(r"`([a-z_0-9A-Z.]+)(?:\([^`]*\))?`", table) for name in [cell.split(".")[0]]}
    missing = sorted(name for name in names if not hasattr(fprune, name))
    assert not missing, f"README.md lists names that fprune does not have: {missing}"


def test_command_line_answers_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fprune", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "demo" in done.stdout, f"`python -m fprune --help` fails:\n{done.stderr}"


def test_ci_script_is_executable_and_strict() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in text, (
        ".ci/run must stop at the first error"
    )
