"""Which uses of a weight are seen, and what a tap does to the output of one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fprune.criteria.linear import Tapping, single_rows

X, W = torch.arange(3.0).reshape(1, 3), torch.arange(6.0).reshape(2, 3)

USES: dict[str, tuple[Callable[[], object], bool]] = {
    "a linear layer": (lambda: F.linear(X, W), True),
    "by keyword": (lambda: F.linear(input=X, weight=W, bias=torch.ones(2)), True),
    "a vector": (lambda: F.linear(X[0], W), True),
    "several rows": (lambda: F.linear(X.expand(4, 3), W), False),
    "twice": (lambda: F.linear(F.linear(X, W) @ W, W), False),
    "a product": (lambda: X @ W.T, False),
    "as an input": (lambda: F.linear(W[:, :2], torch.ones(5, 2)), False),
    "beside a linear layer": (lambda: F.linear(X, W) + W.sum(), False),
    "an embedding": (lambda: F.embedding(torch.tensor([0]), W), False),
    "inside a list": (lambda: torch.cat([W, W]), False),
    "never": (lambda: None, False),
}


@pytest.mark.parametrize("use", USES)
def test_one_row_through_one_linear_layer_is_an_outer_product(use: str) -> None:
    forward, single = USES[use]
    found = single_rows({"w": W}, forward)
    assert set(found) == ({"w"} if single else set())
    assert all(tap.numel() == 2 and not tap.any() for tap in found.values())


def test_a_copy_is_not_the_weight() -> None:
    assert single_rows({"w": W}, lambda: F.linear(X, W.clone())) == {}


def test_a_tap_is_added_and_the_input_kept() -> None:
    other = torch.ones(2, 3)
    with Tapping({"w": W, "v": other}, {"w": torch.tensor([[10.0, 20.0]])}) as tapping:
        tapped, plain = F.linear(X, W), F.linear(X, other)
    assert torch.equal(tapped, X @ W.T + torch.tensor([[10.0, 20.0]]))
    assert torch.equal(plain, X @ other.T)
    assert set(tapping.inputs) == {"w"}
    assert torch.equal(tapping.inputs["w"], X)


def test_the_slope_of_a_tap_is_that_of_the_output() -> None:
    def loss(tap: Tensor) -> Tensor:
        with Tapping({"w": W}, {"w": tap}):
            return F.linear(X, W).square().sum()

    assert torch.equal(torch.func.grad(loss)(torch.zeros(1, 2)), 2 * X @ W.T)
