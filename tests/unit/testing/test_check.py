"""The functions that check laws: what a violation says, what can be asked for, and what is refused."""

import pickle
from typing import Any

import pytest

from fprune import Config, Goal, Masks, TaskResult, agp, l1, level, linear, one_shot, pruner, schedule
from fprune.errors import ConfigTypeError, LawViolation
from fprune.testing import LAWS, check_pipeline, check_pruner, check_schedule, check_stage
from fprune.tree import same
from tests.laws.mutants import elements, moved, plus_one, steps, threshold


@pruner
def greedy(params: Any, config: Config) -> Masks:
    """Removes everything."""
    return Masks({row.layer.weight: params[row.layer.weight] > 9 for row in params.plan(config).selected})


@schedule
def half(target: Config) -> Any:
    yield Goal(target.scaled(0.5), final=True)


def violation(check: Any, *args: Any, **options: Any) -> LawViolation:
    with pytest.raises(LawViolation) as caught:
        check(*args, **options)
    return caught.value


def test_a_violation_is_an_assertion_error_that_names_law_piece_and_finding() -> None:
    error = violation(check_pruner, greedy(), max_examples=5)
    assert isinstance(error, AssertionError)
    assert error.message.startswith("greedy() breaks the law 'exact count': of 'a.weight' 2 of 2 elements")
    assert error.law == "exact count" and error.example in error.message.replace("\n    ", "\n")
    assert "floor(s * n)" in error.hint
    assert not getattr(error, "__notes__", []), "what hypothesis has to say of it is not for the reader"
    again = pickle.loads(pickle.dumps(error))
    assert (again.law, again.example, str(again)) == (error.law, error.example, str(error))


def test_the_example_is_the_smallest() -> None:
    error = violation(check_pruner, elements(choose=threshold), max_examples=12)
    assert "{'a.weight': torch.tensor([[0.0], [0.0]])}" in error.example, error.example


@pytest.mark.parametrize(
    ("check", "make", "found"),
    [
        (check_pruner, greedy, "masks"),
        (check_schedule, half, "reports"),
        (check_stage, lambda: moved(plus_one, mask=False), "result"),
        (check_pipeline, lambda: linear(1) | greedy(), ""),
    ],
)
def test_the_example_can_be_pasted(check: Any, make: Any, found: str) -> None:
    piece = make()
    error = violation(check, piece, max_examples=3)
    lines = error.example.replace(repr(piece), "piece").splitlines()
    if found == "result":
        lines = [line.replace(repr(piece), "piece").replace("| mine()", "| piece") for line in lines]
    space: dict[str, Any] = {"piece": piece, "greedy": greedy, "half": half, "mine": make}
    text = "\n".join(lines)
    if not found:
        with pytest.raises(Exception, match="stay"):
            exec(text, space)
        return
    exec(text, space)
    assert found in space
    if found == "result":
        assert isinstance(space["result"], TaskResult)
        assert not same(dict(space["result"].masks.apply(space["result"].model)), dict(space["result"].model))


def test_the_same_check_finds_the_same_example() -> None:
    first, second = (violation(check_pruner, greedy(), max_examples=5) for _ in range(2))
    assert str(first) == str(second)


def test_laws_can_be_chosen_and_left_out() -> None:
    check_pruner(greedy(), laws={"structure", "deterministic"}, max_examples=2)
    skipped = {"exact count", "never empty", "zero", "superset", "rounds", "idempotent", "non-finite", "ties"}
    check_pruner(greedy(), skip=skipped, max_examples=2)
    check_schedule(steps(2), laws={"range"}, config=0.5, max_examples=2)


@pytest.mark.parametrize("check", [check_pruner, check_stage])
def test_an_unknown_law_is_refused_with_a_close_name(check: Any) -> None:
    with pytest.raises(ConfigTypeError, match="Did you mean 'deterministic'"):
        check(level(), skip={"deterministi"})


@pytest.mark.parametrize(
    ("check", "wrong"),
    [(check_pruner, l1), (check_stage, agp(2)), (check_schedule, level()), (check_pipeline, one_shot())],
)
def test_another_kind_of_piece_is_refused(check: Any, wrong: Any) -> None:
    with pytest.raises(ConfigTypeError, match=f"{check.__name__}: expected a"):
        check(wrong)


def test_every_law_says_what_holds_and_has_a_name_of_its_own() -> None:
    names = [(law.kind, law.name) for law in LAWS]
    assert len(set(names)) == len(names)
    assert all(len(law.says) > 10 for law in LAWS)
