"""Modules whose code cannot hold the new sizes become graphs of their calls; everything around them keeps its class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune import Masks, Model, inputs
from fprune.structure import Structure, compact, trace


class Halves(nn.Module):
    """Equal halves, one of them untouched: the code says `chunk(2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.norm_of_the_width = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return self.n(torch.cat([right, left.relu()], 1))


class ScaledByWidth(nn.Module):
    """A scale that is computed from a shape in floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) / float(x.shape[-1]) ** 0.5


class Slopes(nn.Module):
    """A table made from the number of heads: its entries change when it is made with fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.a, self.b = 4, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        slopes = (torch.arange(self.heads, device=x.device) + 1).to(x) / 4
        y = self.a(x).view(x.shape[0], self.heads, 2) * slopes[:, None]
        return self.b(y.flatten(1))


class Normed(nn.LayerNorm):
    """A norm of a class of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class Around(nn.Module):
    """A model around a module."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(6, 8), inside, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inside(self.first(x)))


INSIDE: dict[str, Callable[[], nn.Module]] = {
    "halves": Halves,
    "scale": ScaledByWidth,
    "slopes": Slopes,
    "norm": lambda: Normed(8),
}


def masked_units(model: Model, structure: Structure, choose: Callable[[int], slice]) -> Masks:
    masks: dict[str, Tensor] = {}
    for family in structure.families:
        for part in family.slices:
            if part.tensor in model:
                mask = masks.setdefault(part.tensor, torch.ones(model[part.tensor].shape, dtype=torch.bool))
                mask.index_fill_(part.dim, torch.from_numpy(part.index[choose(len(family))].reshape(-1)), False)
    return Masks(masks)


@pytest.mark.parametrize("name", INSIDE)
def test_one_module_is_replaced(name: str) -> None:
    torch.manual_seed(0)
    net = Around(INSIDE[name]()).double().eval()
    model, x = Model.from_module(net), torch.randn(2, 6).double()
    structure = trace(model, inputs(x))
    for _ in range(2):  # a graph is replaced again in the next round
        masks = masked_units(model, structure, lambda n: slice(n // 3))
        masked = model.replace(masks.apply(model))
        done = compact(model, masks, structure, style="module")
        assert done.report.replaced == ("inside",) and sum(done.report.removed.values()) > 0
        for batch in (1, 2, 5):
            y = torch.randn(batch, 6).double()
            torch.testing.assert_close(done.model(y), masked(y), rtol=1e-12, atol=1e-12)
        built = done.model.to_module()
        assert type(built) is Around and type(built.first) is nn.Linear
        assert isinstance(built.inside, type(net.inside)) and type(built.inside).__name__.endswith("Graph")
        assert set(built.state_dict()) >= set(net.state_dict())
        model, structure = done.model, done.structure


def test_a_fresh_trace_of_a_replaced_module() -> None:
    torch.manual_seed(0)
    model, x = Model.from_module(Around(Halves()).double().eval()), torch.randn(2, 6).double()
    for _ in range(2):
        structure = trace(model, inputs(x))
        masks = masked_units(model, structure, lambda n: slice(n // 3))
        masked, done = model.replace(masks.apply(model)), compact(model, masks, structure)
        torch.testing.assert_close(done.model(x), masked(x), rtol=1e-12, atol=1e-12)
        assert done.report.style == "module"
        model = Model.from_module(done.model.to_module())


def test_equal_halves_keep_their_code() -> None:
    model = Model.from_module(Around(Halves()).double().eval())
    structure = trace(model, inputs(torch.randn(2, 6).double()))
    kept = torch.tensor([True, False, True, True, True, False, True, True])
    done = compact(model, Masks({"first.weight": kept[:, None], "first.bias": kept}), structure, style="module")
    assert done.report.replaced == ()


class Shared(nn.Module):
    """One module called on two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.inner = Outer()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.inner(self.a(x))) + self.d(self.inner(self.b(x)))


class Outer(nn.Module):
    """Spells out its width."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 2, 4).flip(1).flatten(1)


def test_a_module_that_does_different_things_goes_with_its_caller() -> None:
    model = Model.from_module(nn.Sequential(Shared()).double())
    structure = trace(model, inputs(torch.randn(2, 6).double()))
    masks: dict[str, Tensor] = {}
    for name, kept in {"a": [0, 4], "b": [1, 5, 2, 6]}.items():
        alive = torch.ones(8, dtype=torch.bool).index_fill(0, torch.tensor(kept), False)
        masks.update({f"0.{name}.weight": alive[:, None], f"0.{name}.bias": alive})
    done = compact(model, Masks(masks), structure)
    assert done.report.style == "module" and done.report.replaced == ("0",)


def test_hidden_reads_of_the_batch() -> None:
    """Functions of torch that are written in Python read shapes out of sight: a graph still takes any batch."""

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x)[0]

    torch.manual_seed(0)
    model, x = Model.from_module(nn.Sequential(nn.Linear(3, 8), Inside()).double()), torch.randn(2, 5, 3).double()
    masks = masked_units(model, structure := trace(model, inputs(x)), lambda n: slice(n // 2))
    masked, done = model.replace(masks.apply(model)), compact(model, masks, structure, style="graph")
    y = torch.randn(7, 5, 3).double()
    torch.testing.assert_close(done.model(y), masked(y), rtol=1e-12, atol=1e-12)


class Cached(nn.Module):
    """Keeps a table that it computes from its parameters, as relative positions are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bias, self.cache = nn.Linear(8, 8), nn.Parameter(torch.randn(8)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias * 2
        return self.a(x) * self.cache["bias"]


def test_caches_are_made_anew() -> None:
    torch.manual_seed(0)
    model, x = Model.from_module(Around(Cached()).double()), torch.randn(2, 6).double()
    masks = masked_units(model, structure := trace(model, inputs(x)), lambda n: slice(n // 2))
    done, masked = compact(model, masks, structure), model.replace(masks.apply(model))
    assert sum(done.report.removed.values()) > 0 and done.report.replaced == ()
    torch.testing.assert_close(done.model(x), masked(x), rtol=1e-12, atol=1e-12)


def test_a_call_leaves_no_entry_in_a_cache() -> None:
    model, x = Model.from_module(Cached()), torch.randn(2, 8)
    first = model(x)
    doubled = model.replace({"bias": model["bias"] * 2})
    torch.testing.assert_close(doubled(x), first * 2)


class Listed(nn.Module):
    """Blocks in a list, which is never called itself; each is given a table that belongs to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8))
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Given() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, self.table) / block.divisor
        return self.last(x)


class Given(nn.Module):
    """Scales by a table it is given, and by its width; the code around it reads an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.divisor = nn.Linear(8, 8), 3.0

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.a(x * table) / float(x.shape[-1])


def test_what_a_module_is_given_and_what_is_read_of_it() -> None:
    torch.manual_seed(0)
    model, x = Model.from_module(Listed().double()), torch.randn(2, 6).double()
    masks = masked_units(model, structure := trace(model, inputs(x)), lambda n: slice(n // 2))
    done, masked = compact(model, masks, structure, style="module"), model.replace(masks.apply(model))
    assert done.report.replaced == ("blocks.0", "blocks.1")
    torch.testing.assert_close(done.model(x), masked(x), rtol=1e-12, atol=1e-12)


class Positions(nn.Module):
    """Makes a table for a shape it is told, with as many columns as it has heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.a = 4, nn.Linear(4, 8)

    def forward(self, shape: tuple[int, int]) -> Tensor:
        batch, length = shape
        table = torch.arange(self.heads, device=self.a.weight.device).to(self.a.weight) + 1
        return self.a(table.expand(batch, length, self.heads))


class Told(nn.Module):
    """Hands sizes over as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.positions, self.last = nn.Linear(6, 8), Positions(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.positions((x.shape[0], x.shape[1])))


def test_sizes_that_are_handed_over_as_numbers() -> None:
    torch.manual_seed(0)
    model, x = Model.from_module(Told().double()), torch.randn(2, 5, 6).double()
    masks = masked_units(model, structure := trace(model, inputs(x)), lambda n: slice(n // 2))
    done, masked = compact(model, masks, structure, style="module"), model.replace(masks.apply(model))
    assert done.report.replaced == ("positions",)
    y = torch.randn(3, 7, 6).double()
    torch.testing.assert_close(done.model(y), masked(y), rtol=1e-12, atol=1e-12)
