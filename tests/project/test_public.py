"""The public names: each is listed once, documented, and shown in an example that runs."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import fprune
from fprune.compose import Factory
from tests.project.files import PACKAGE, report

INIT = PACKAGE / "__init__.py"

# The names this release promises, in reading order. Taking one away is a decision, so it is made here too.
PROMISED = """
Model Masks Rule Config Plan Goal Task Report TaskResult Setting Trained inputs
Stage Schedule Pipeline stage pruner schedule nested unfold
one_shot linear agp lottery scan annealing evolve netadapt amc
level l1 l2 fpgm random slim admm movement
taylor snip grasp synflow fisher hessian
apoz mean_activation
per_layer globally dependency_aware balanced n_m block erk lamp owl uniform_plus isomorphic
finetune evaluate reset_weight speed_up tap
hold compact verify count
keyed stage_cache run_folder load
sensitivity Sensitivity auto_compress
errors structure
""".split()


def exported() -> list[str]:
    """The names that `fprune/__init__.py` re-exports as `X as X`, in its order."""
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    return [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]


def test_init_is_a_table_of_contents() -> None:
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr), "fprune/__init__.py opens with the package's docstring"
    problems = []
    for node in rest:
        if isinstance(node, ast.ImportFrom):
            problems += [
                f"{alias.name}: write `{alias.name} as {alias.name}`" for alias in node.names if not alias.asname
            ]
        elif not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"):
            problems.append(ast.unparse(node))
    assert not problems, report(problems, "fprune/__init__.py re-exports by `X as X` and does nothing else")


def test_promised_names_are_importable() -> None:
    missing = [name for name in PROMISED if not hasattr(fprune, name)]
    assert not missing, f"fprune promises these names and does not have them: {missing}"
    new = sorted(set(exported()) - set(PROMISED))
    assert not new, f"public and not listed in PROMISED of this file: {new}"


def test_names_are_listed_once() -> None:
    names = exported()
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"listed twice in fprune/__init__.py: {twice}"


@pytest.mark.parametrize("name", exported())
def test_public_name_is_documented_with_an_example(name: str) -> None:
    value = getattr(fprune, name)
    doc = inspect.getdoc(value) or ""
    assert doc, f"fprune.{name} has no docstring"
    first = doc.splitlines()[0]
    assert len(first) > 10 and re.search(r"[.:)]$", first), (
        f"fprune.{name}: the first line should be one sentence: {first!r}"
    )
    if not inspect.ismodule(value):
        assert ">>> " in doc, f"fprune.{name}: its docstring shows no example (`>>> ...`, run by the tests)"


@pytest.mark.parametrize("name", exported())
def test_public_name_tells_its_signature(name: str) -> None:
    value = getattr(fprune, name)
    if inspect.ismodule(value) or not callable(value):
        return
    parameters = inspect.signature(value).parameters
    assert not any(isinstance(p.default, (list, dict, set)) for p in parameters.values()), (
        f"fprune.{name} has a mutable default"
    )


def test_every_pruner_schedule_and_stage_is_in_the_law_tests() -> None:
    used = {
        node.id
        for path in sorted((PACKAGE.parent / "tests" / "laws").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    missing = [name for name in exported() if isinstance(getattr(fprune, name), Factory) and name not in used]
    assert not missing, f"add {missing} to tests/laws/strategies.py or to the tables of tests/laws/test_pruner_laws.py"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(PACKAGE.parent))
        for path in sorted(Path(PACKAGE).rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, report(silent, "open each module with one sentence that says what it is for")
