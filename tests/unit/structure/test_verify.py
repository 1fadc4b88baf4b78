"""Comparing outputs: relative to the reference, and strict about everything that is not a rounding error."""

import math

import pytest
import torch
from torch import Tensor, nn

from fprune import Model, inputs
from fprune.structure import trace, verify
from fprune.structure.verify import agree, difference

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.5, -4.0], 0.125),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], INF),
        ([1.0, INF], [1.0, INF], 0.0),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0, INF], [1.0, 2.0], INF),
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([1.0, NAN], [1.0, INF], INF),
        ([2.0, NAN], [1.0, NAN], 0.5),
        ([NAN, NAN], [NAN, NAN], 0.0),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], INF),
    ],
)
def test_difference(a: list[float], b: list[float], expected: float) -> None:
    assert difference(torch.tensor(a), torch.tensor(b)) == expected


def test_other_types_must_be_equal() -> None:
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == INF
    assert difference(torch.tensor([True]), torch.tensor([False])) == INF
    assert difference(torch.ones(2), torch.ones(2, dtype=torch.float64)) == INF


class Two(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.fc, self.shift, self.drop = nn.Linear(3, 3), shift, nn.Dropout(0.9)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.drop(x.add_(1)), "b": x + self.shift}


def test_one_number_for_each_output_in_evaluation_mode() -> None:
    x = torch.ones(1, 3)
    found = verify(Two(0.0).train(), Model.from_module(Two(1.0)), inputs(x))
    assert found == (0.0, 0.5)
    assert torch.equal(x, torch.ones(1, 3))


def test_example_inputs_of_zeros_hide_nothing() -> None:
    a, b = (Model.from_module(nn.Linear(3, 2, bias=False)) for _ in range(2))
    structure = trace(a, inputs(torch.zeros(1, 3)))
    expected = agree(a, None, structure).outputs
    assert agree(a, expected, structure).ok
    assert not agree(b, expected, structure).ok, "both give zeros for zeros, and differ for anything else"
