"""What a family is: heads, the width of heads, channels; read off the labels of attention in every spelling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune import Config, Model, compact, dependency_aware, inputs, l1
from fprune.structure import Structure, trace
from tests.unit.toys import Written

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
HEADS, WIDTH = 3, 4


def split(x: Tensor, heads: int = HEADS) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def by_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v


def by_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    return torch.bmm(torch.bmm(flat[0], flat[1].mT).softmax(-1), flat[2]).unflatten(0, q.shape[:2])


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v)


def by_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "matmul": by_matmul,
    "bmm": by_bmm,
    "einsum": by_einsum,
    "sdpa": by_sdpa,
}


def attention(spelling: str, heads: int = HEADS) -> nn.Module:
    """A feed-forward stem of width 10, then attention of its own projections."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        q, k, v = (split(layer(x), heads) for layer in (self.q, self.k, self.v))
        return self.o(joined(SPELLINGS[spelling](q, k, v)))

    torch.manual_seed(0)
    inner = heads * WIDTH
    parts = {name: nn.Linear(10, inner) for name in "qkv"}
    return Written(forward, stem=nn.Linear(6, 10), **parts, o=nn.Linear(inner, 6)).double()


def grouped_query() -> nn.Module:
    """Two key-value heads, each for three queries."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = split(self.q(x), 6), split(self.k(x), 2), split(self.v(x), 2)
        k, v = (y[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for y in (k, v))
        return self.o(joined(by_matmul(q, k, v)))

    torch.manual_seed(0)
    parts = {"q": nn.Linear(6, 24), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8), "o": nn.Linear(24, 6)}
    return Written(forward, **parts).double()


def grouped_by_einsum() -> nn.Module:
    """The same without copies: the queries of a group are a dimension of their own."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = self.q(x).unflatten(-1, (2, 3, 4)), self.k(x).unflatten(-1, (2, 4)), self.v(x).unflatten(-1, (2, 4))
        scores = torch.einsum("blgrd,bmgd->bgrlm", q, k).softmax(-1)
        return self.o(torch.einsum("bgrlm,bmgd->blgrd", scores, v).flatten(2))

    torch.manual_seed(0)
    parts = {"q": nn.Linear(6, 24), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8), "o": nn.Linear(24, 6)}
    return Written(forward, **parts).double()


def told(structure: Structure) -> dict[str, tuple[str, int]]:
    return {family.name: (family.role, len(family)) for family in structure.families}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_heads_their_width_and_channels(spelling: str) -> None:
    assert told(trace(attention(spelling), X)) == {
        "k.weight": ("head", 3),
        "k.weight#2": ("head_dim", 4),
        "v.weight": ("head_dim", 4),
        "stem.weight": ("channel", 10),
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_single_head_has_a_width_and_no_head(spelling: str) -> None:
    assert told(trace(attention(spelling, 1), X)) == {
        "k.weight": ("head_dim", 4),
        "v.weight": ("head_dim", 4),
        "stem.weight": ("channel", 10),
    }


def test_grouped_queries() -> None:
    """Whole groups reach keys, values and queries; one query of every group reaches the queries alone."""
    structure = trace(grouped_query(), X)
    heads = {f.parameters: len(f) for f in structure.families if f.role == "head"}
    whole = ("k.bias", "k.weight", "o.weight", "q.bias", "q.weight", "v.bias", "v.weight")
    assert heads.pop(whole) == 2
    assert heads in ({}, {("o.weight", "q.bias", "q.weight"): 3})
    assert {len(f) for f in structure.families if f.role == "head_dim"} == {4}


def test_grouped_queries_in_a_dimension_of_their_own() -> None:
    structure = trace(grouped_by_einsum(), X)
    found = {(f.role, f.parameters[::2], len(f)) for f in structure.families}
    assert found == {
        ("head", ("k.bias", "o.weight", "q.weight", "v.weight"), 2),
        ("head", ("o.weight", "q.weight"), 3),
        ("head_dim", ("k.bias", "q.bias"), 4),
        ("head_dim", ("o.weight", "v.weight"), 4),
    }


def test_attention_over_channels_has_heads_and_their_width() -> None:
    """Queries against keys along the positions: what comes out has the width of the queries."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (split(layer(x)).mT for layer in (self.q, self.k, self.v))
        return self.o(joined(((q @ k.mT).softmax(-1) @ v).mT))

    parts = {"q": nn.Linear(6, 12), "k": nn.Linear(6, 12), "v": nn.Linear(6, 12), "o": nn.Linear(12, 6)}
    roles = told(trace(Written(forward, **parts).double(), X))
    assert roles == {"k.weight": ("head", 3), "q.weight": ("head_dim", 4)}


def test_torchs_own_attention() -> None:
    net = Written(lambda self, x: self.att(x, x, x)[0], att=nn.MultiheadAttention(6, 3, batch_first=True)).double()
    assert {(f.role, len(f)) for f in trace(net, X).families} == {("head", 3), ("head_dim", 2)}


def test_products_with_a_weight_are_layers() -> None:
    """A batched product with a parameter, a parameter read through a view, and a plain matrix product."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = (self.stem(x) @ self.w.t()).relu()
        experts = torch.einsum("bnc,ecd->bend", x, self.experts)
        return self.out(torch.einsum("bend,edf->bnef", experts, self.back).flatten(2))

    parts = {"w": nn.Parameter(torch.randn(8, 10)), "experts": nn.Parameter(torch.randn(3, 8, 4))}
    back = nn.Parameter(torch.randn(3, 4, 2))
    net = Written(forward, stem=nn.Linear(6, 10), out=nn.Linear(6, 5), back=back, **parts).double()
    structure = trace(net, X)
    assert {family.role for family in structure.families} == {"channel"}
    assert {len(family) for family in structure.families} >= {8, 10}


def test_similarity_of_two_embeddings_is_no_attention() -> None:
    net = Written(lambda self, x: self.a(x[:, 0]) @ self.b(x[:, 1]).t(), a=nn.Linear(6, 8), b=nn.Linear(6, 8)).double()
    assert told(trace(net, X)) == {"a.weight": ("channel", 8)}


def test_learned_queries_are_an_attention() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        q = split(self.q(self.queries)[None])
        return self.o(joined(by_matmul(q.expand(2, -1, -1, -1), split(self.k(x)), split(self.v(x)))))

    parts = {"q": nn.Linear(6, 12), "k": nn.Linear(6, 12), "v": nn.Linear(6, 12), "o": nn.Linear(12, 6)}
    net = Written(forward, queries=nn.Parameter(torch.randn(4, 6)), **parts).double()
    roles = told(trace(net, X))
    assert roles["k.weight"] == ("head", 3)
    assert {role for name, (role, _) in roles.items() if name != "k.weight"} == {"head_dim", "channel"}
    assert roles["q.weight[dim 1]"] == ("channel", 6)


def test_roles_stay_through_compaction_and_are_printed() -> None:
    model = Model.from_module(attention("matmul"))
    structure = trace(model, X)
    (heads,) = [family for family in structure.families if family.role == "head"]
    masks = l1(dependency_aware).masks(
        model, Config([{"op_names": ["k"], "sparsity": 0.4, "granularity": "head"}]), example_inputs=inputs(X)
    )
    after = compact(model, masks, structure).structure
    assert [(f.role, len(f)) for f in after.families if f.name == heads.name] == [("head", 2)]
    assert "k.weight     head " in str(after)
