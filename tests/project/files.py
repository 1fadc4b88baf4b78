"""What the project tests look at: the repository's own files, without caches and build products."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fprune"

_SKIPPED = {"__pycache__", "build", "dist", "venv", "htmlcov"}
_TEXT = {".py", ".md", ".toml", ".ipynb", ".json", ".txt", ".yml", ".yaml", ".cfg", ""}


def package_sources() -> list[Path]:
    """Every source file of the package, sorted."""
    return sorted(PACKAGE.rglob("*.py"))


def text_files() -> list[Path]:
    """Every text file of the repository that is ours."""
    own_dotfiles = [ROOT / ".gitignore", *sorted((ROOT / ".ci").rglob("*"))]
    return own_dotfiles + [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file()
        and path.suffix in _TEXT
        and not any(part in _SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
        and not any(part.endswith(".egg-info") for part in path.relative_to(ROOT).parts)
    ]


def where(path: Path, node: ast.AST | None = None) -> str:
    """`fprune/model.py:12`, as editors open it."""
    line = getattr(node, "lineno", None)
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    """Each source file of the package with its syntax tree."""
    for path in package_sources():
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def report(problems: list[str], reason: str) -> str:
    """A failure message: why the rule is there, then each place that breaks it."""
    return reason + "\n" + "\n".join(f"  {problem}" for problem in problems)
