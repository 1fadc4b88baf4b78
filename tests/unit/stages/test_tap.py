"""`tap` looks and changes nothing."""

from typing import Any

import pytest

from fprune.errors import CompositionError, StageError
from fprune.records import Goal, TaskResult
from fprune.schedules import agp
from fprune.stages import tap
from tests.unit import toys


def start() -> TaskResult:
    return TaskResult.start(toys.net(), 0.5).next(Goal(0.5))


def test_the_record_passes_on() -> None:
    seen: list[Any] = []
    before = start()
    assert tap(seen.append)(before) is before
    assert seen == [before]


def test_every_round_is_seen() -> None:
    seen: list[int] = []
    (agp(3) | toys.smallest() | tap(lambda result: seen.append(result.index))).run(toys.net(), 0.5)
    assert seen == [0, 1, 2, 3]


def test_a_return_value_would_be_lost() -> None:
    with pytest.raises(StageError, match=r"<lambda> returned int, and tap passes nothing on\nhint: .*@stage"):
        tap(lambda result: 3)(start())


def test_a_function_is_expected() -> None:
    with pytest.raises(CompositionError, match="expected a function"):
        tap(None)  # type: ignore[arg-type]
