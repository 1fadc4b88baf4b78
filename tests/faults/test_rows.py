"""The table of faults is whole: every row has tests, every test is there, and an error is told with a way out."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.faults.rows import ROWS, Row

ROOT = Path(__file__).parents[2]


@cache
def functions(file: str) -> dict[str, str]:
    """The tests of a file and their text, decorators included."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines()
    return {
        node.name: "\n".join(lines[min(one.lineno for one in (node, *node.decorator_list)) - 1 : node.end_lineno])
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def source(test: str) -> str:
    file, name = test.split("::")
    return functions(file).get(name, "")


def test_the_rows_are_1_to_48() -> None:
    assert [row.number for row in ROWS] == list(range(1, 49))
    assert all(row.fault and row.expected for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_every_row_has_tests_that_are_there(row: Row) -> None:
    assert row.tests, f"row {row.number} has no test"
    assert len(set(row.tests)) == len(row.tests)
    missing = [test for test in row.tests if not source(test)]
    assert not missing, f"row {row.number} names tests that do not exist: {missing}"
    empty = [test for test in row.tests if not re.search(r"\bassert\b|pytest\.(raises|warns)", source(test))]
    assert not empty, f"row {row.number} names tests that claim nothing: {empty}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.refused], ids=lambda row: str(row.number))
def test_every_error_of_a_row_is_asserted_with_its_hint(row: Row) -> None:
    texts = [source(test) for test in row.tests]
    assert any("hint" in text and ("raises" in text or "refused(" in text) for text in texts)


def test_every_test_that_is_named_for_rows_is_in_the_table() -> None:
    named = {
        (f"{file.relative_to(ROOT).as_posix()}::{name}", int(number))
        for file in Path(__file__).parent.glob("test_*_rows.py")
        for name in functions(file.relative_to(ROOT).as_posix())
        if (match := re.match(r"test_rows?_(\d+)(?:_(?:and|to)_(\d+))?_", name))
        for number in range(int(match[1]), int(match[2] or match[1]) + 1)
    }
    there = {(test, row.number) for row in ROWS for test in row.tests}
    forgotten = sorted(named - there)
    assert not forgotten, f"name them in the table, in the rows that their names say: {forgotten}"
