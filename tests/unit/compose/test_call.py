"""A call is equal to, and prints as, the expression that makes it."""

import copy
import pickle
from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune.compose import Call
from fprune.compose.call import expression
from tests.unit import toys

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(plain)
def test_expression_of_plain_values_evaluates_to_them(value: object) -> None:
    assert eval(expression(value)) == value


def test_functions_print_by_name() -> None:
    def local() -> None: ...

    assert expression((toys.train, local, torch.nn.ReLU, lambda: 0)) == "(train, local, ReLU, <lambda>)"
    assert expression([torch.nn.Linear.forward]) == "[Linear.forward]"
    assert expression(partial(toys.train, lr=0.1)) == "partial(train, lr=0.1)"


@given(st.lists(plain, max_size=3), st.dictionaries(st.sampled_from("abc"), plain))
def test_equal_arguments_are_equal_calls(args: list[object], kwargs: dict[str, object]) -> None:
    one = Call(max, args, kwargs)
    other = Call(max, copy.deepcopy(args), dict(reversed(kwargs.items())))
    assert one == other
    assert repr(one) == repr(other)
    assert Call(min, args, kwargs) != one
    assert Call(max, [*args, 0], kwargs) != one


def test_functions_of_one_name_are_different_calls() -> None:
    assert Call(lambda: 1) != Call(lambda: 1)
    assert repr(Call(lambda: 1)) == repr(Call(lambda: 2)) == "<lambda>()"


def test_tensor_arguments_compare_by_value() -> None:
    assert Call(max, (torch.ones(2),)) == Call(max, (torch.ones(2),))
    assert Call(max, (torch.ones(2),)) != Call(max, (torch.zeros(2),))


def test_equal_calls_have_equal_hashes_whatever_the_arguments() -> None:
    one, other = (Call(max, (torch.nn.ReLU(), [1], torch.ones(2)), {"p": 1.0}) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, Call(max, (1,)), Call(min, (1,))}) == 3


def test_call_puts_leading_arguments_in_front() -> None:
    assert Call(divmod, (4,))(11) == (2, 3)


def test_pickle_and_copy_keep_calls_equal() -> None:
    for call in (Call(max, (1,), {"key": abs}), toys.steps(0.5, 1.0).calls[0], toys.smallest().calls[0]):
        assert pickle.loads(pickle.dumps(call)) == call
        assert copy.deepcopy(call) == call


def test_needs_come_from_function_and_arguments() -> None:
    class Allocation:
        needs = frozenset({"structure"})

    assert Call(max, (Allocation(),)).needs == {"structure"}
    assert Call(max, (), {"allocation": Allocation()}).needs == {"structure"}
    assert Call(max).needs == frozenset()
