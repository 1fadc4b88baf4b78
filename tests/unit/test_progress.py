"""The bar: seen on a terminal and in a notebook after a while, silent in logs."""

import io
import sys
import time
import types

import pytest

from fprune import progress as module
from fprune.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest sets the error stream anew after fixtures have run."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_the_items_come_through_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch)
    assert list(progress(iter("abc"), "work")) == ["a", "b", "c"]
    assert list(progress([], "work")) == []


def test_a_terminal_shows_work_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    monkeypatch.setattr(module, "DELAY", 1e-9)
    for _ in progress(range(3), "taylor", unit="batch"):
        time.sleep(0.11)  # a bar is drawn every tenth of a second
    assert "taylor" in terminal.getvalue()
    assert "/3" in terminal.getvalue()


def test_a_terminal_shows_nothing_of_work_that_is_soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    list(progress(range(3), "taylor"))
    assert terminal.getvalue().strip() == ""
    assert module.DELAY == 2.0


def test_logs_stay_silent_and_tqdm_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "DELAY", 1e-9)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it would raise
    assert list(progress(range(3), "taylor")) == [0, 1, 2]
    assert stream.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    assert list(progress(range(3), "taylor")) == [0, 1, 2]


def test_a_notebook_has_a_bar_although_its_error_stream_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    asked: list[str] = []
    fake = types.SimpleNamespace(tqdm=lambda items, **options: asked.append(options["desc"]) or items)
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(auto=fake))
    assert list(progress([1], "taylor")) == [1]
    assert asked == ["taylor"]


def test_an_error_in_the_loop_closes_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    monkeypatch.setattr(module, "DELAY", 1e-9)

    def work() -> None:
        for item in progress(range(5), "work"):
            time.sleep(0.11)
            if item == 2:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        work()
    assert "work" in terminal.getvalue()
    assert terminal.getvalue().rstrip(" ").endswith("\r")  # the line is wiped
