"""A lifted function checks its options where the expression is written."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from fprune.allocate import balanced, globally, n_m
from fprune.compose import Stage, stage
from fprune.errors import CompositionError
from fprune.pruners import level
from fprune.records import TaskResult
from fprune.schedules import agp
from fprune.stages import finetune
from tests.unit import toys


def test_options_are_bound_when_written() -> None:
    with pytest.raises(CompositionError, match=r"finetune: missing a required argument: 'fn'\nhint: .*finetune\(fn"):
        finetune()  # type: ignore[call-arg]
    with pytest.raises(CompositionError, match="agp: got an unexpected keyword argument 'speed'"):
        agp(3, speed=2)  # type: ignore[call-arg]


def test_composition_errors_are_type_errors() -> None:
    with pytest.raises(TypeError):
        finetune()  # type: ignore[call-arg]


def test_check_sees_the_options() -> None:
    seen = []

    @stage(check=lambda *args, **kwargs: seen.append((args, kwargs)))
    def noted(result: TaskResult, a: int, b: int = 0) -> TaskResult:
        return result

    noted(1, b=2)
    assert seen == [((1,), {"b": 2})]


def test_the_pure_function_stays_reachable() -> None:
    config = toys.Config(0.5)
    assert toys.smallest.fn(toys.net().state_dict(), config) == toys.smallest().masks(toys.net().state_dict(), config)


def test_factory_tells_its_options_and_docstring() -> None:
    assert str(inspect.signature(finetune)).startswith("(fn:")
    assert (finetune.__doc__ or "").startswith("Train a private copy")
    assert finetune.__module__ == "fprune.stages.finetune"
    assert repr(finetune) == finetune.__name__ == "finetune"


def test_factories_pickle_and_copy_as_themselves() -> None:
    assert pickle.loads(pickle.dumps(finetune)) is finetune
    assert copy.deepcopy(finetune) is finetune


def test_unknown_needs_are_refused() -> None:
    with pytest.raises(CompositionError, match=r"unknown needs or gives \['mask'\]\nhint: .*'masks'"):

        @stage(needs=("mask",))
        def never(result: TaskResult) -> TaskResult:
            return result


def test_needs_may_depend_on_the_options() -> None:
    @stage(needs=lambda word, *, scored=False: ("score",) if scored else ())
    def perhaps(result: TaskResult, word: str, *, scored: bool = False) -> TaskResult:
        return result

    assert perhaps("a", scored=True).needs == {"score"}
    assert perhaps("a").needs == frozenset()
    assert (perhaps("a") | perhaps("b", scored=True)).needs == {"score"}


def test_gives_may_depend_on_the_options() -> None:
    @stage(gives=lambda really: ("score",) if really else ())
    def perhaps(result: TaskResult, really: bool) -> TaskResult:
        return result

    assert perhaps(True).gives == {"score"}
    assert perhaps(False).gives == frozenset()


def test_an_uncalled_factory_is_no_stage() -> None:
    with pytest.raises(CompositionError, match=r"hint: call it: smallest\(\)"):
        toys.rows() | toys.smallest  # type: ignore[operator]
    with pytest.raises(CompositionError, match=r"hint: call it: agp\(\)"):
        agp | Stage()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("globally", r"got 'globally'\nhint: per_layer, globally"),
        (0.5, r"level: allocation: expected a function of \(criterion, params, config\), got 0\.5\nhint: .*config"),
        (n_m, r"got n_m\nhint: call it with its options: n_m\(n, m\)"),
        (balanced, r"got balanced\nhint: call it with its options: balanced\(block=None\)"),
    ],
)
def test_what_is_no_allocation_is_refused_when_written(given: Any, message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        level(given)
    with pytest.raises(CompositionError, match=message):
        level(allocation=given)


def test_any_function_of_three_may_be_an_allocation() -> None:
    for fits in (n_m(2, 4), lambda *given: given, globally):
        assert level(fits).calls[0].args == (fits,)
