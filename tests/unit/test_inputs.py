import copy
import pickle

import pytest
import torch

from fprune import tree
from fprune.errors import ConfigTypeError
from fprune.inputs import Inputs, inputs
from fprune.tree import Flat

X = torch.ones(2, 3)


def test_every_accepted_form():
    assert Inputs.of(None) is None
    assert Inputs.of(X) == Inputs.of((X,)) == inputs(X) == Inputs((X,))
    assert Inputs.of({"ids": X}) == inputs(ids=X) == Inputs((), Flat({"ids": X}))
    both = inputs(X, ids=X)
    assert Inputs.of(both) is both
    assert Inputs.of(()) == inputs()


@pytest.mark.parametrize("wrong", [[X], "x", 3])
def test_everything_else_is_refused_with_the_forms(wrong):
    with pytest.raises(ConfigTypeError, match=r"example_inputs: expected .* got") as caught:
        Inputs.of(wrong)
    assert "(x,)" in caught.value.hint


def test_call_passes_arguments_and_protects_the_callers_tensors():
    x, y = torch.zeros(2), [torch.zeros(2), "kept"]
    seen = inputs(x, y, flag=True).call(
        lambda *args, **kwargs: (args[0].add_(1), args[1][0].add_(1), args[1][1], kwargs)
    )
    assert seen[2:] == ("kept", {"flag": True})
    assert x.tolist() == y[0].tolist() == [0.0, 0.0]
    assert seen[0].tolist() == [1.0, 1.0]


def test_call_keeps_requires_grad_and_cuts_the_graph():
    leaf = torch.zeros(2, requires_grad=True)
    got = inputs(leaf, leaf * 2, torch.arange(2)).call(lambda *args: args)
    assert [value.requires_grad for value in got] == [True, True, False]
    assert all(value.is_leaf for value in got)


def test_equality_is_by_value():
    assert inputs(X) == inputs(X.clone())
    assert inputs(X) != inputs(X + 1)
    assert inputs(X) != inputs(x=X)
    assert inputs(X) != X.shape
    with pytest.raises(TypeError):
        hash(inputs(X))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_and_pickles(again):
    assert again(inputs(X, flag=X)) == inputs(X, flag=X)


def test_the_selector_of_outputs_is_no_argument():
    given = inputs(X, outputs=max, flag=True)
    assert given.call(lambda *args, **kwargs: (len(args), sorted(kwargs))) == (1, ["flag"])
    assert (given.outputs, inputs(X).outputs) == (max, None)
    assert given == inputs(X.clone(), outputs=max, flag=True)
    assert given != inputs(X, outputs=min, flag=True)
    assert given != inputs(X, flag=True)
    assert Inputs.of({"x": X, "outputs": X}) == Inputs((), {"x": X, "outputs": X})


def test_the_selector_travels_with_the_tensors():
    given = inputs(X, outputs=max)
    for again in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), tree.map(lambda leaf: leaf, given)):
        assert again == given
        assert again.outputs is max
    assert tree.map(torch.zeros_like, given) == inputs(torch.zeros_like(X), outputs=max)


@pytest.mark.parametrize("wrong", [X, 0, "logits", [max]])
def test_a_selector_is_a_function(wrong):
    with pytest.raises(ConfigTypeError, match="outputs: expected a function") as caught:
        inputs(X, outputs=wrong)
    assert "Inputs((ids,), {'outputs': x})" in caught.value.hint


def test_repr_is_one_line():
    assert repr(inputs(X, outputs=max)) == "Inputs(float32[2, 3], outputs=<built-in function max>)"
    assert repr(inputs(X, 3, ids=X)) == "Inputs(float32[2, 3], 3, ids=float32[2, 3])"
    assert repr(inputs()) == "Inputs()"
