"""Every seeded mistake is found by the law that is meant for it, and the piece without the mistake keeps every law."""

from collections.abc import Callable
from typing import Any

import pytest

from fprune.errors import LawViolation
from fprune.testing import check_pipeline, check_pruner, check_schedule, check_stage
from tests.laws.mutants import PIPELINES, PRUNERS, SCHEDULES, STAGES, Mutant

Check = Callable[..., None]
EXAMPLES = {check_pruner: 12, check_schedule: 8, check_stage: 8, check_pipeline: 4}
KINDS: list[tuple[Check, list[Mutant]]] = [
    (check_pruner, PRUNERS),
    (check_schedule, SCHEDULES),
    (check_stage, STAGES),
    (check_pipeline, PIPELINES),
]
SURVIVES = {"normalised by layer"}
"""Mistakes that no law finds yet: scaling all layers alike seldom changes which of them has the smallest weights."""


def case(check: Check, mutant: Mutant) -> Any:
    marks = [pytest.mark.xfail(reason="no law finds it", strict=True)] if mutant.name in SURVIVES else []
    return pytest.param(check, mutant, id=f"{check.__name__}-{mutant.name}", marks=marks)


MUTANTS = [case(check, mutant) for check, all_ in KINDS for mutant in all_]
TWINS = {
    (check, repr(mutant.twin()), mutant.law if mutant.options else ""): (check, mutant)
    for check, all_ in KINDS
    for mutant in all_
}


def options(check: Check, mutant: Mutant) -> dict[str, Any]:
    return {"max_examples": EXAMPLES[check], **mutant.options}


def test_the_list_is_long_enough_and_nearly_all_are_found() -> None:
    assert len(MUTANTS) >= 26
    assert len(SURVIVES) <= 0.05 * len(MUTANTS)


@pytest.mark.parametrize(("check", "mutant"), MUTANTS)
def test_a_mistake_is_found_by_its_law(check: Check, mutant: Mutant) -> None:
    with pytest.raises(LawViolation) as caught:
        check(mutant.make(), **options(check, mutant))
    assert caught.value.law == mutant.law, caught.value.message


@pytest.mark.parametrize(("check", "mutant"), TWINS.values())
def test_without_the_mistake_every_law_is_kept(check: Check, mutant: Mutant) -> None:
    check(mutant.twin(), **options(check, mutant))
