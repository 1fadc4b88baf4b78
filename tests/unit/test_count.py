"""Counting parameters and FLOPs: by hand, and the masked model against the compact one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune import Masks, Model, compact, count, dependency_aware, inputs, l1, skeleton
from fprune.count import Cost
from fprune.errors import FpruneError, ModelError
from fprune.structure import trace
from tests.zoo.models import resnet18


class Attention(nn.Module):
    """Multi-head attention with the grouped keys and values of a Llama."""

    def __init__(self, width: int, heads: int, pairs: int, size: int) -> None:
        super().__init__()
        self.heads, self.pairs, self.size = heads, pairs, size
        self.q = nn.Linear(width, heads * size, bias=False)
        self.k = nn.Linear(width, pairs * size, bias=False)
        self.v = nn.Linear(width, pairs * size, bias=False)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (-1, self.size)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.pairs, 1) for t in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.attention = Attention(24, 4, 2, 6)
        self.mlp = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return self.head(x + self.mlp(x))


class Branching(nn.Module):
    """Reads its data: no recording can stand for both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return self.fc(x) if x.sum() > -1 else x


HAND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "linear": (lambda: nn.Linear(5, 3), (7, 5), 18, 2 * 7 * 5 * 3),
    "linear in the middle": (lambda: nn.Linear(5, 3, bias=False), (2, 7, 5), 15, 2 * 14 * 5 * 3),
    "conv": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 10, 10), 224, 2 * 2 * 8 * 25 * 27),
    "conv without padding": (lambda: nn.Conv2d(3, 8, (3, 1)), (1, 3, 10, 10), 80, 2 * 8 * 8 * 10 * 9),
    "dilated": (lambda: nn.Conv1d(3, 4, 3, dilation=2), (1, 3, 10), 40, 2 * 4 * 6 * 9),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (1, 6, 5, 5), 224, 2 * 8 * 9 * 3 * 9),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, padding=1), (2, 6, 5, 5), 60, 2 * 2 * 6 * 25 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 5), 222, 2 * 4 * 25 * 6 * 9),
    "grouped transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (1, 4, 5, 5), 54, 2 * 4 * 25 * 3 * 4),
    "norm and activation": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (2, 4, 3, 3), 8, 0),
    "attention": (
        lambda: Attention(24, 4, 2, 6),
        (3, 10, 24),
        24 * 24 + 2 * 24 * 12 + 24 * 24 + 24,
        2 * 3 * (10 * (24 * 24 + 2 * 24 * 12 + 24 * 24) + 4 * 10 * 10 * (6 + 6)),
    ),
    "torch's attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (3, 5, 8),
        8 * 24 + 24 + 8 * 8 + 8 + 8 * 16 + 16 + 16 * 8 + 8 + 4 * 8,
        2 * 3 * (5 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * (4 + 4)),
    ),
    "lstm": (lambda: nn.LSTM(4, 5, batch_first=True), (2, 7, 4), 20 * (4 + 5 + 2), 2 * 2 * 7 * 20 * (4 + 5)),
    "branch on data": (Branching, (3, 4), 58, 2 * 3 * (32 + 16)),
}


@pytest.mark.parametrize("name", HAND)
def test_counts_are_those_made_by_hand(name: str) -> None:
    build, shape, params, operations = HAND[name]
    found = count(build(), torch.ones(shape))
    assert (found.params, found.flops) == (params, operations)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda x: x @ x.mT, 2 * 3 * 4 * 5 * 4),
        (lambda x: torch.bmm(x, x.mT), 2 * 3 * 4 * 5 * 4),
        (lambda x: torch.baddbmm(x[:, :, :4], x, x.mT), 2 * 3 * 4 * 5 * 4),
        (lambda x: torch.addmm(x[0, :, :4], x[0], x[1].T), 2 * 4 * 5 * 4),
        (lambda x: torch.einsum("bij,bkj->bik", x, x), 2 * 3 * 4 * 5 * 4),
        (lambda x: x[0] @ x[0, 0], 2 * 4 * 5),
        (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), 2 * 2 * 3 * 4 * 4 * 5),
    ],
)
def test_products_of_activations_count(expression: Callable[[Tensor], Tensor], expected: int) -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return expression(x)

    assert count(Product(), torch.ones(3, 4, 5)).flops == expected


def test_modules_add_up() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2))
    found = count(net, torch.ones(3, 4))
    assert found["0.0"] == Cost("0.0", "Linear", 40, 2 * 3 * 32)
    assert (found["0"].params, found["0"].flops) == (40, 2 * 3 * 32)
    assert (found["1"].params, found["1"].flops) == (18, 2 * 3 * 16)
    assert (found.params, found.flops) == (58, 2 * 3 * 48)
    assert [cost.name for cost in found.modules] == ["", "0", "0.0", "0.1", "1"]
    with pytest.raises(ModelError, match="no module 'fc'"):
        found["fc"]


def test_a_run_on_data_tells_modules_apart_too() -> None:
    found = count(Branching(), torch.ones(3, 4))
    assert (found["inner"].flops, found["inner.0"].flops, found["fc"].flops) == (192, 192, 96)


class Fused(nn.Module):
    """A layer that torch may run in one piece, before a branch on data."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        x = x if isinstance(x, Tensor) else x[0]
        return x if x.sum() > -1000 else -x


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (lambda: nn.LSTM(8, 4), 2 * 3 * 5 * 16 * (8 + 4)),
        (HAND["torch's attention"][0], HAND["torch's attention"][3]),
    ],
    ids=["recurrent", "encoder"],
)
def test_fused_layers_count_as_their_products(inner: Callable[[], nn.Module], expected: int) -> None:
    assert count(Fused(inner()), torch.ones(3, 5, 8)).flops == expected


def test_a_shared_module_has_its_parameters_once_and_its_work_twice() -> None:
    layer = nn.Linear(4, 4)
    found = count(nn.Sequential(layer, nn.ReLU(), layer), torch.ones(1, 4))
    assert (found.params, found.flops) == (20, 64)


def test_the_table_shows_what_costs_something() -> None:
    found = count(nn.Sequential(nn.Linear(1000, 1000), nn.ReLU()), torch.ones(1, 1000))
    assert repr(found) == "Count(1,001,000 params, 2,000,000 FLOPs)"
    assert "1  " not in str(found) and "2,000,000" in str(found)
    assert "<caption>Count(1,001,000 params" in found._repr_html_()


def test_a_wrong_input_is_refused() -> None:
    with pytest.raises(ModelError, match="forward pass fails"):
        count(nn.Linear(3, 2), torch.ones(1, 4))


def test_counting_leaves_the_model_alone_and_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with monkeypatch.context() as patched:
        patched.setattr(skeleton, "_clone", lambda _: pytest.fail("a tensor was copied"))
        count(net, torch.ones(1, 3, 8, 8))
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def rows_only(net: nn.Module) -> Masks:
    """Half of the rows of each matrix masked, whatever couples them: compaction folds, and keeps what it must."""
    generator = torch.Generator().manual_seed(0)
    return Masks(
        {
            name: (torch.rand(len(value), generator=generator) < 0.5).view(-1, *[1] * (value.ndim - 1))
            for name, value in net.named_parameters()
            if value.ndim > 1
        }
    )


def whole_units(net: nn.Module, x: Tensor) -> Masks:
    return l1(dependency_aware).masks(Model.from_module(net), 0.5, example_inputs=(x,))


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (lambda: resnet18(8, 10), (2, 3, 32, 32)),
    "transformer": (Block, (2, 7, 24)),
    "grouped": (grouped, (1, 3, 9, 9)),
    "no bias to fold into": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 6, bias=False), nn.Linear(6, 3)),
        (1, 4),
    ),
}


@pytest.mark.parametrize("style", ["auto", "graph"])
@pytest.mark.parametrize("which", ["whole units", "rows only", "nothing"])
@pytest.mark.parametrize("name", NETS)
def test_the_masked_model_counts_as_the_compact_one(name: str, which: str, style: str) -> None:
    torch.manual_seed(0)
    build, shape = NETS[name]
    net, x = build().eval(), torch.randn(shape)
    masks = {"whole units": lambda: whole_units(net, x), "rows only": lambda: rows_only(net), "nothing": Masks}[which]()
    small = compact(Model.from_module(net), masks, trace(net, x), style=style).model
    masked, dense = count(net, x, masks), count(net, x)
    assert (masked.params, masked.flops) == (small.num_params, count(small, x).flops)
    assert masked.params == count(small.to_module(), inputs(x)).params
    if which == "nothing":
        assert masked == dense
    else:
        assert masked.flops < dense.flops


def test_masks_of_another_model_are_refused() -> None:
    with pytest.raises(FpruneError):
        count(nn.Linear(3, 2), torch.ones(1, 3), Masks({"fc.weight": torch.ones(2, 1, dtype=torch.bool)}))


def test_what_a_model_cannot_lose_is_counted() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1), nn.Linear(8, 2))
    masks = Masks({"0.weight": torch.arange(8)[:, None] < 4, "0.bias": torch.arange(8) < 4})
    assert count(net, torch.ones(1, 4), masks) == count(net, torch.ones(1, 4))
