"""The linters and the type checker are part of the one test command, so that nobody needs to remember them."""

import subprocess
import sys

import pytest

from tests.project.files import ROOT

TOOLS = {
    "ruff check": ([sys.executable, "-m", "ruff", "check", "."], "fix with: ruff check --fix ."),
    "ruff format": ([sys.executable, "-m", "ruff", "format", "--check", "--diff", "."], "fix with: ruff format ."),
    "pyright strict": (
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        "the package must be clean under pyright's strict mode",
    ),
    "import arrows": (
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        "imports only go down (pyproject.toml, [tool.importlinter]); a new module needs its line there",
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_is_clean(tool: str) -> None:
    command, hint = TOOLS[tool]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} is not clean; {hint}\n{done.stdout}\n{done.stderr}"
