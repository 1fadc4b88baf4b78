"""Comparing outputs: relative to the reference, and strict about everything that is not a rounding error."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fprune import Model, inputs
from fprune.inputs import Inputs
from fprune.structure import trace, verify
from fprune.structure.trials import drawn
from fprune.structure.verify import Reference, agree, difference
from tests.unit.toys import Written

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
    reference = Reference(a, trace(a, inputs(torch.zeros(1, 3))))
    assert agree(a, reference, {}).ok
    found = agree(b, reference, {})
    assert not found.ok, "both give zeros for zeros, and differ for anything else"
    assert found.trials == ("example inputs", "drawn inputs, batch 2, float64")
    assert found.failed is not None and found.failed.name == found.trials[-1]


def test_float64_shows_what_float32_hides() -> None:
    """A weight that is off by one part in ten million is within the rounding of float32."""
    a = Model.from_module(nn.Linear(3, 2, bias=False))
    b = a.replace({"weight": a["weight"] * (1 + 2e-7)})
    found = agree(b, Reference(a, trace(a, inputs(torch.ones(4, 3)))), {})
    assert found.trials == ("example inputs", "drawn inputs, batch 2, float64") and not found.ok
    assert 1e-8 < found.difference < 1e-6
    restored = agree(b, Reference(a, trace(a, inputs(torch.ones(4, 3)))), {"weight": a["weight"].double()})
    assert restored.ok, "the rounding of a constant that was folded is not held against a model"


class Odd(nn.Module):
    """Right on what it was traced on, wrong or impossible elsewhere."""

    def __init__(self, broken: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.broken = nn.Parameter(torch.ones(4)), broken

    def forward(self, x: Tensor) -> Tensor:
        return self.broken(x) * self.weight


def fixed_batch(x: Tensor) -> Tensor:
    return x.view(2, 4)


def no_float64(x: Tensor) -> Tensor:
    x = x + 0
    if x.dtype == torch.float64:
        raise NotImplementedError("no kernel")
    return x


def tried(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[str, ...]:
    model = Model.from_module(Odd(fn))
    return agree(model, Reference(model, trace(model, inputs(x))), {}).trials


def test_what_the_masked_model_cannot_do_is_left_out() -> None:
    x = torch.randn(2, 4)
    assert tried(lambda x: x, x) == ("example inputs", "drawn inputs, batch 1, float64")
    assert tried(lambda x: x.view(2, -1, 4).sum(0), x.repeat(2, 1)) == (
        "example inputs",
        "drawn inputs, batch 2, float64",
    )
    assert tried(lambda x: x.view(-1, 8).view(-1, 4), x) == ("example inputs", "drawn inputs, float64")
    assert tried(fixed_batch, x) == ("example inputs", "drawn inputs, float64")
    assert tried(no_float64, x) == ("example inputs", "drawn inputs")
    assert tried(lambda x: x / 0 * 0, x) == ("example inputs",), "an output that is NaN throughout says nothing"
    images = torch.rand(1, 4, 200, 4)
    many = images.expand(6, 4, 200, 4)
    assert tried(lambda x: x, many)[1:] == ("drawn inputs, batch 1, cropped, float64",)
    assert tried(lambda x: x, images)[1:] == ("drawn inputs, batch 2, cropped, float64",)
    assert tried(lambda x: x.view(-1, 4, 200, 4), images)[1:] == ("drawn inputs, batch 2, float64",)


def test_a_model_that_is_right_on_one_batch_size_alone_is_refused() -> None:
    model = Model.from_module(Odd(lambda x: x))
    other = Model.from_module(Odd(lambda x: x if len(x) == 2 else x * 2))
    reference = Reference(model, trace(model, inputs(torch.randn(2, 4))))
    found = agree(other, reference, {})
    assert found.failed is not None and found.failed.name == "drawn inputs, batch 3, float64"
    assert found.trials == ("example inputs", "drawn inputs, batch 3, float64")


def test_numbers_drawn_in_the_forward_pass_are_the_same_on_both_sides() -> None:
    state = torch.get_rng_state()
    model = Model.from_module(Odd(lambda x: x + torch.randn_like(x)))
    assert verify(model, model, inputs(torch.ones(2, 4))) == (0.0,)
    assert torch.equal(state, torch.get_rng_state())


def test_a_different_number_of_outputs_is_a_difference() -> None:
    one = Model.from_module(Two(0.0))
    more = Model.from_module(Written(lambda self, x: (x, x, x), fc=nn.Linear(3, 3)))
    assert not agree(more, Reference(one, trace(one, inputs(torch.ones(1, 3)))), {}).ok


def values(inputs: Inputs) -> list[Tensor]:
    return [x for x in (*inputs.args, *inputs.kwargs.values()) if isinstance(x, Tensor)]


def test_what_is_drawn() -> None:
    ids, mask = torch.tensor([[5, 9, 2], [7, 1, 3]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    unit, image = torch.rand(2, 50), torch.zeros(2, 3)
    bias = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    flags, phase = torch.tensor([[True, False], [True, True]]), torch.ones(2, 2, dtype=torch.complex64)
    example = inputs(ids, mask, unit, image, bias, flags, phase)
    first, same, *rest = drawn(example, 2)
    new = values(first.inputs)
    assert [len(x) for x in new] == [3] * 7 and first.wide
    assert sorted(new[0].flatten().tolist()) == sorted([*ids.flatten().tolist(), 5, 9, 2])
    assert not torch.equal(new[0][:2], ids) and torch.equal(new[1][:2], mask)
    assert new[2].min() >= unit.min() and new[2].max() <= unit.max() and new[2].std() > 0.1
    assert new[3].std() > 0.5, "one constant says nothing"
    assert torch.equal(new[4][:2], bias)
    assert torch.equal(new[5][:2], flags) and torch.equal(new[6][:2], phase)
    assert torch.equal(values(same.inputs)[0][:2], ids), "indices that may not be moved stay"
    assert [trial.wide for trial in rest] == [True, True, False]
    again = values(drawn(example, 2)[0].inputs)
    assert all(torch.equal(a, b) for a, b in zip(new, again, strict=True))
    assert drawn(inputs(torch.ones(5, 2)), 5)[0].name == "drawn inputs, batch 2, float64"
    assert [t.name for t in drawn(inputs(torch.tensor(1.0)), 0)] == ["drawn inputs, float64", "drawn inputs"]


def test_complex_outputs() -> None:
    a = torch.tensor([1 + 1j, 4.0])
    assert difference(a, a + 1j) == 0.25
    assert difference(a, a.conj().conj()) == 0
