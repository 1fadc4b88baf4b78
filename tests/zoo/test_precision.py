"""Constants of a float32 model are found in double precision, by every operator of the zoo."""

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, inputs
from fprune.structure.constants import known
from fprune.structure.record import record
from tests.zoo.case import Case, randomised
from tests.zoo.models import CASES


class Products(nn.Module):
    """Attention, products and casts between channels that are partly constant."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).transpose(-2, -4).unbind(-3)
        x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
        x = self.norm(self.out(x)) @ self.out.weight + torch.einsum("bij,jk->bik", x, self.out.weight)
        return torch.softmax(x.to(torch.float32), -1) * x.sigmoid()


PRODUCTS = Case("products", Products, ((5, 6),), ("Linear",))


def rows_masked(model: Model) -> Masks:
    """Every other row of each matrix, the biases left: what remains is constant and not 0."""
    kept = {name: torch.arange(len(w)).view(-1, *[1] * (w.ndim - 1)) % 2 > 0 for name, w in model.items() if w.ndim > 1}
    return Masks(kept)


@pytest.mark.parametrize("case", [*CASES, PRODUCTS], ids=lambda case: case.name)
def test_constants_are_as_precise_for_a_narrow_model(case: Case) -> None:
    model = Model.from_module(randomised(case.build(), seed=0).float().eval())
    given = case.inputs()
    x = (
        inputs(**{k: v.float() for k, v in given.items()})
        if isinstance(given, dict)
        else inputs(*(v.float() for v in given))
    )
    narrow = model.params.merged(model.buffers).merged(rows_masked(model).apply(model))
    wide = narrow.map(lambda value: value.double() if value.is_floating_point() else value)
    graph = record(model, x)
    found, expected = known(graph, narrow), known(graph, wide)
    made = [index for node in graph.nodes for index in node.outs]
    assert all(torch.equal(found[i].taint, expected[i].taint) for i in made)
    torch.testing.assert_close(
        [found[i].value.double() for i in made],
        [expected[i].value.double() for i in made],
        rtol=1e-12,
        atol=1e-14,
        equal_nan=True,
    )
