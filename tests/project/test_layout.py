"""Where things are, how long they may get, and words that have no place here."""

import re
from pathlib import Path

from tests.project.files import PACKAGE, ROOT, package_sources, report, text_files, where

TOP_LEVEL = {"pyproject.toml", "fprune", "tests", "notebooks", "README.md"}
BUILD_PRODUCTS = {"build", "dist", "venv", "htmlcov", "__pycache__"}
MAX_LINES = 300

# Written in pieces, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.:])/(?:" + "|".join(["work", "tmp", "root", "home", "opt", "Users"]) + r")/[\w.]")
WORDS = re.compile(
    r"\b(?:" + "|".join(["work" + "place", "co" + "ordinator", "col" + "league", "FIX" + "ME"]) + r")s?\b", re.I
)
PAGES = re.compile(
    r"\b(?:" + "|".join(["FAULTS", "ARCHITECTURE", "STRUCTURE", "SEED-SYSTEM", "SPEC"]) + r")(?:\.md| rows? \d+)"
)
PRAISE = re.compile(
    r"\b(?:blazing\w*|seamless\w*|effortless\w*|powerful|cutting[- ]edge|state[- ]of[- ]the[- ]art|revolutionary|"
    r"lightning[- ]fast|world[- ]class|awesome|amazing|simply|easily)\b",
    re.I,
)
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")


def test_top_level_holds_nothing_else() -> None:
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"}
    extra = sorted(found - TOP_LEVEL - BUILD_PRODUCTS)
    assert not extra, f"the top level is {sorted(TOP_LEVEL)} and dotfiles; move {extra} into one of them"
    assert not TOP_LEVEL - found, f"missing at the top level: {sorted(TOP_LEVEL - found)}"


def test_files_stay_short() -> None:
    long = [
        f"{where(p)}: {n} lines"
        for p in package_sources()
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    ]
    assert not long, report(long, f"a file past {MAX_LINES} lines holds two ideas; split it by idea")


def test_no_drawer_modules() -> None:
    drawers = [where(p) for p in package_sources() if p.stem in {"utils", "util", "common", "base", "helpers", "misc"}]
    drawers += [where(p) for p in PACKAGE.rglob("core") if p.is_dir()]
    assert not drawers, report(drawers, "name a module after what it holds; a drawer gathers everything")


def test_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file(), "without fprune/py.typed type checkers ignore the annotations"


def hits(path: Path, *patterns: re.Pattern[str]) -> list[str]:
    return [
        f"{where(path)}:{number}: {match.group()!r}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern in patterns
        if (match := pattern.search(line))
    ]


def test_no_machine_paths_or_foreign_words() -> None:
    problems = [hit for path in text_files() for hit in hits(path, MACHINE_PATH, WORDS, PAGES)]
    assert not problems, report(problems, "a reader elsewhere has neither these paths nor these pages")


def test_prose_is_plain() -> None:
    prose = [p for p in text_files() if p.suffix in {".md", ".ipynb"} or p.is_relative_to(PACKAGE)]
    problems = [hit for path in prose for hit in hits(path, PRAISE)]
    problems += [hit for path in text_files() for hit in hits(path, EMOJI)]
    assert not problems, report(problems, "say what was measured; leave the praise to the reader")
