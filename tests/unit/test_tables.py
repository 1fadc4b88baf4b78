import pytest

from fprune.tables import html_table, text_table


def test_columns_align_and_lines_have_no_trailing_space():
    text = text_table(["layer", "n"], [["conv1", 64], ["a.long.name", None]])
    assert text.splitlines() == ["layer        n", "-----------  ----", "conv1        64", "a.long.name  None"]
    assert all(line == line.rstrip() for line in text.splitlines())


def test_no_rows():
    assert text_table(["a", "b"], []) == "a  b\n-  -"
    assert html_table(["a"], []) == "<table><thead><tr><th>a</th></tr></thead><tbody></tbody></table>"


def test_a_short_row_is_an_error_not_a_shifted_table():
    with pytest.raises(ValueError, match="zip"):
        text_table(["a", "b"], [["only one"]])


def test_html_escapes_everything():
    html = html_table(["<h>"], [["<script>"]], title="a & b")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<caption>a &amp; b</caption>" in html
    assert html.count("<table>") == 1
