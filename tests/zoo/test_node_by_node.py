"""After surgery every value of the program is the masked program's value restricted to its kept indices."""

import pytest
import torch
from torch import nn

from fprune import Masks, Model, compact, inputs
from fprune.errors import StructureError
from fprune.structure import bisimulate, trace
from fprune.structure.rewrite import REWRITES, called
from tests.zoo.models import CASES
from tests.zoo.support import traced


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_every_value_is_the_kept_part(name: str):
    made = traced(name)
    masks = made.masks(0.5)
    assert bisimulate(made.model, masks, made.structure, tolerance=1e-12) == ()
    other = inputs(**made.case.inputs(3, 7)) if isinstance(made.case.shapes, dict) else made.case.inputs(3, 7)
    assert bisimulate(made.model, masks, made.structure, other, tolerance=1e-12) == ()


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.second(x[:, 4:] + x[:, :4])


@pytest.fixture
def wrong_slice(monkeypatch: pytest.MonkeyPatch):
    """A slice of the second half that takes the first."""

    def wrong(cut, node, self, dim, start, end, step):
        size = int(cut.kept(node.out, dim).sum())
        return called(node, start=0, end=size)

    monkeypatch.setitem(REWRITES, "slice", wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_broken_rule_is_named(wrong_slice: None, dtype: torch.dtype):
    model = Model.from_module(Sliced().to(dtype))
    keep = torch.tensor([True, False, True, True] * 2)
    masks = Masks({"first.weight": keep.view(-1, 1, 1, 1), "first.bias": keep})
    structure = trace(model, torch.randn(2, 3, 6, 6, dtype=dtype))
    first, *others = bisimulate(model, masks, structure)
    assert first.call.startswith("slice in the root module (") and first.call.count("test_node_by_node.py") == 1
    assert first.rules[0] == "rule fprune.structure.rules.shape.slices" and first.rules[1].endswith(".wrong")
    assert first.gap > 0.1 and not first.problem
    assert [d.call.partition(" ")[0] for d in others] == ["add", "conv2d"]
    with pytest.raises(StructureError, match=r"first difference: slice in the root module .*differs by .*slices"):
        compact(model, masks, structure, style="graph")


def test_a_call_that_fails_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(REWRITES, "slice", lambda cut, node, **_: node)
    model = Model.from_module(Sliced())
    masks = Masks({"second.weight": torch.tensor([True, False, True, True]).view(1, -1, 1, 1)})
    found = bisimulate(model, masks, trace(model, torch.randn(2, 3, 6, 6)))
    assert found[-1].gap == float("inf")


def test_inputs_that_do_not_fit():
    model = Model.from_module(Sliced())
    with pytest.raises(StructureError, match="2 tensors given, 1 expected"):
        bisimulate(model, Masks(), trace(model, torch.randn(2, 3, 6, 6)), (torch.ones(1), torch.ones(1)))
