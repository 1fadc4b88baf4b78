"""The type checker is the first of the rings that refuse an illegal pipeline: these lines are errors, those are not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = """
import torch
from torch import Tensor, nn

from collections.abc import Iterator, Mapping

from fprune.compose import Pipeline, Schedule, Stage, pruner, schedule, stage
from fprune.config import Config
from fprune.masks import Masks
from fprune.records import Goal, Report, TaskResult
from fprune.schedules import agp, lottery, one_shot
from fprune.stages import evaluate, finetune, nested, reset_weight, tap


@pruner
def prune(params: Mapping[str, Tensor], config: Config, strength: float = 1.0) -> Masks:
    return Masks({})


@stage
def note(result: TaskResult, text: str) -> TaskResult:
    return result


@schedule
def reading(target: Config, rounds: int) -> Iterator[Goal]:
    yield Goal(target)


def train(module: nn.Module) -> None: ...
def accuracy(module: nn.Module) -> float: ...
def look(result: TaskResult) -> None: ...


net = nn.Linear(2, 2)
"""

ACCEPTED = """
p1: Pipeline = agp(10) | prune() | finetune(train) | evaluate(accuracy) | tap(look)
p2: Pipeline = one_shot() | (prune(0.5) | reset_weight())
p3: Pipeline = lottery(10) | nested(p1) | note("x")
s1: Schedule = agp(3).then(one_shot())
s2: Stage = Stage() | prune(strength=2.0) | Stage()
r1: TaskResult = p1.run(net, [{"op_types": ["Conv2d"], "sparsity": 0.8}], example_inputs=(torch.ones(1),))
r2: list[TaskResult] = list(p1.stream(r1))
r3: TaskResult = note("x")(r1)
m1: Masks = prune().masks(r1.model, Config(0.5))
"""

REJECTED = {
    "prune() | one_shot()": "reportOperatorIssue",
    "(agp(3) | prune()) | one_shot()": "reportOperatorIssue",
    "agp(3) | one_shot()": "reportOperatorIssue",
    "(agp(3) | prune()) | (agp(3) | prune())": "reportOperatorIssue",
    "prune() | (agp(3) | prune())": "reportOperatorIssue",
    "prune() | train": "reportOperatorIssue",
    "agp(3) | train": "reportOperatorIssue",
    "train | prune()": "reportOperatorIssue",
    "agp(3) | prune": "reportOperatorIssue",
    "agp | prune()": "reportOperatorIssue",
    "agp(3) | prune() | 3": "reportOperatorIssue",
    "agp(3).then(prune())": "reportArgumentType",
    "nested(prune())": "reportArgumentType",
    "agp('3')": "reportArgumentType",
    "agp()": "reportCallIssue",
    "finetune()": "reportCallIssue",
    "finetune(3)": "reportArgumentType",
    "note('x', 'y')": "reportCallIssue",
    "prune(weakness=2.0)": "reportCallIssue",
    "(agp(3) | prune()).run(3, 0.5)": "reportArgumentType",
    "agp(3).run(net, 0.5)": "reportAttributeAccessIssue",
    "stage(train)": "reportArgumentType",
    "pruner(look)": "reportArgumentType",
    "schedule(look)": "reportArgumentType",
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """The rules that pyright names, by line, for all snippets in one run."""
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("typed")
    snippets = "\n".join(f"_ = {line}" for line in REJECTED)
    (folder / "snippets.py").write_text(f"{HEADER}{ACCEPTED}{snippets}\n", encoding="utf-8")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(root)], "include": ["snippets.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[int, list[str]] = {}
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        found.setdefault(item["range"]["start"]["line"], []).append(item.get("rule", item["message"]))
    return found


FIRST = len(f"{HEADER}{ACCEPTED}".splitlines())


def test_legal_pipelines_pass(findings: dict[int, list[str]]) -> None:
    assert {line: rules for line, rules in findings.items() if line < FIRST} == {}


@pytest.mark.parametrize("position", range(len(REJECTED)), ids=list(REJECTED))
def test_illegal_pipelines_are_reported(findings: dict[int, list[str]], position: int) -> None:
    assert findings.get(FIRST + position) == [list(REJECTED.values())[position]]
