"""Small tables, as aligned text for terminals and as HTML for notebooks."""

import html
from collections.abc import Iterable, Sequence


def _cells(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [list(headers), *([str(cell) for cell in row] for row in rows)]


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """Align rows under their headers.

    Examples:
        >>> print(text_table(["layer", "sparsity"], [["conv1", 0.5], ["fc", ""]], title="Plan"))
        Plan
        layer  sparsity
        -----  --------
        conv1  0.5
        fc

    Args:
        headers: One text for each column.
        rows: Cells, turned into text with `str`; each row as long as `headers`.
        title: A line above the table.

    Returns:
        Lines without trailing spaces, joined by newlines.
    """
    head, *body = _cells(headers, rows)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [head, ["-" * width for width in widths], *body]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *text] if title else text)


def html_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """Build one small HTML table with every cell escaped.

    Examples:
        >>> html_table(["a"], [["<b>"]])
        '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'

    Args:
        headers: One text for each column.
        rows: Cells, turned into text with `str`; each row as long as `headers`.
        title: The table's caption.

    Returns:
        A single `<table>` element.
    """
    head, *body = _cells(headers, rows)
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    return (
        f"<table>{caption}<thead><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )
