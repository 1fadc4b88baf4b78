"""Look for the smallest example that breaks a law."""

import warnings
from collections.abc import Callable, Iterable
from itertools import groupby
from textwrap import indent
from typing import Any, cast

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky, HypothesisException

from fprune.errors import LawViolation, TiedScores
from fprune.isolation import isolated
from fprune.strategies.hypothesis import st
from fprune.testing.law import Law, Piece


class _Broken(Exception):
    """Carries a violation through hypothesis, which writes notes of its own to what it sees raised."""

    def __init__(self, violation: LawViolation) -> None:
        super().__init__(violation.law)
        self.violation = violation


def search(laws: Iterable[Law], piece: Piece, max_examples: int) -> None:
    """Try laws on drawn examples, and raise the violation of the first that does not hold.

    Laws that are for the same examples are tried on each of them together; what breaks one is then made smaller. The
    examples are the same in every run, nothing is written, and the global random generators and settings are
    afterwards as they were.

    Args:
        laws: the laws, in their order.
        piece: what they are tried on.
        max_examples: how many examples of each; fewer of those that cost more.

    Raises:
        LawViolation: a law does not hold.
    """
    for (_, cost), group in groupby(laws, key=lambda law: (law.examples, law.cost)):
        with isolated(seed=0), warnings.catch_warnings():
            warnings.simplefilter("ignore", TiedScores)  # examples are full of ties, on purpose
            violation = _first(list(group), piece, max(1, max_examples // cost))
        if violation is not None:
            raise violation


def _first(laws: list[Law], piece: Piece, count: int) -> LawViolation | None:
    """The violation of the first law that some example breaks, on the smallest example."""
    broken: list[tuple[int, LawViolation]] = []

    def tried(example: Any) -> None:
        for place, law in enumerate(laws[: broken[-1][0] if broken else None]):
            violation = _violation(law, piece, example)
            if violation is not None:
                broken.append((place, violation))
                return

    _run(tried, laws[0].examples(piece), count, Phase.generate)
    return _smallest(laws[broken[-1][0]], piece, count, broken[-1][1]) if broken else None


def _smallest(law: Law, piece: Piece, count: int, known: LawViolation) -> LawViolation:
    """The violation on an example that is as small as it can be made."""
    every = [known]

    def holds(example: Any) -> None:
        violation = _violation(law, piece, example)
        if violation is not None:
            every.append(violation)
            raise _Broken(violation)

    try:
        _run(holds, law.examples(piece), count, Phase.generate, Phase.shrink)
    except _Broken as broken:
        return broken.violation
    except (Flaky, ExceptionGroup):
        pass  # what differs from call to call need not break a law a second time
    return min(every, key=lambda violation: len(violation.example))


def _run(test: Callable[[Any], None], examples: st.SearchStrategy[Any], count: int, *phases: Phase) -> None:
    options = settings(
        max_examples=count,
        derandomize=True,  # what is red here is red elsewhere
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=cast(list[HealthCheck], list(HealthCheck)),
        report_multiple_bugs=False,
        print_blob=False,
    )
    options(given(examples)(test))()


def _violation(law: Law, piece: Piece, example: Any) -> LawViolation | None:
    cause = None
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", TiedScores)  # small integers have equal scores
            found = law.check(piece, example)
    except HypothesisException:
        raise
    except Exception as error:
        found, cause = f"it raised {type(error).__name__}: {error}", error
    if found is None:
        return None
    lines = "\n".join(example.code(piece))
    violation = LawViolation(
        f"{piece.value!r} breaks the law {law.name!r}: {found}\nthe smallest example found:\n{indent(lines, '    ')}",
        hint=law.says,
        law=law.name,
        example=lines,
    )
    return violation if cause is None else _caused(violation, cause)


def _caused(violation: LawViolation, cause: Exception) -> LawViolation:
    try:
        raise violation from cause
    except LawViolation as raised:
        return raised
