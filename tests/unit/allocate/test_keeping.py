"""Choices that the code of a model can hold: width // heads, equal halves, numbers written out; exact, and not more."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Config, Model, compact, dependency_aware, inputs, l1, one_shot, per_layer, speed_up
from fprune.errors import ConfigError
from fprune.structure import trace, verify
from fprune.structure.constraints import constraints
from tests.unit.structure.test_roles import joined
from tests.unit.toys import Written

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


class Attention(nn.Module):
    """The width of a head is computed from the width of what comes in, and what comes out has that width again."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(joined((q @ k.mT).softmax(-1) @ v).reshape(b, n, c))


class Blocks(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.blocks = nn.ModuleList(Attention(24, 6) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Halves(nn.Module):
    """One half goes on as it is, the other through a layer, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 6, 1), nn.Conv2d(16, 6, 1)
        self.own, self.fc = nn.Conv2d(6, 6, 1), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        a, b = torch.cat([self.left(x), self.right(x)], 1).chunk(2, 1)
        return self.fc(torch.cat([a, self.own(b)], 1).mean((2, 3)))


class Slices(nn.Module):
    """The same by indices, computed from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.left(x), self.right(x)], 1)
        half = y.shape[1] // 2
        return self.fc(torch.cat([y[:, half:], y[:, :half].relu()], 1).mean((2, 3)))


def cut(net: nn.Module, x: Tensor, rules: list[dict[str, Any]], **known: Any) -> tuple[Any, dict[str, int]]:
    """The compaction under a config, checked, and how many units of each family are kept."""
    torch.manual_seed(0)
    model = Model.from_module(net.double())
    structure = trace(model, x)
    masks = l1(dependency_aware).masks(model, Config(rules), example_inputs=inputs(x), **known)
    done = compact(model, masks, structure)
    assert dict(done.report.refused) == {}
    assert max(verify(model.replace(masks.apply(model)), done.model, inputs(x))) < 1e-9
    removed = done.report.removed
    return done, {family.name: len(family) - removed.get(family.name, 0) for family in structure.families}


@pytest.mark.parametrize(
    ("rules", "stream", "heads"),
    [
        ([{"sparsity": 0.4}], 16, [4, 4]),  # 15 asked: 16 is the next that 4 heads of width 4 give
        ([{"sparsity": 0.5}], 12, [3, 3]),  # asked and possible
        ([{"sparsity": 0.4}, {"op_names": ["blocks.0.qkv"], "sparsity": 0.1}], 24, [6, 6]),
        ([{"total_sparsity": 0.3}], None, None),
    ],
)
def test_width_over_heads(rules: list[dict[str, Any]], stream: int | None, heads: list[int] | None) -> None:
    plain, before = cut(Blocks(), X, rules)
    done, kept = cut(Blocks(), X, [{**rule, "keep_class": True} for rule in rules])
    assert (done.report.style, done.report.replaced) == (
        "module" if kept["blocks.0.qkv.weight"] < 6 else "unchanged",
        (),
    )
    width, count = kept["blocks.0.proj.weight"], [kept[f"blocks.{n}.qkv.weight"] for n in range(2)]
    assert all(width == 4 * n for n in count)
    assert all(kept[name] >= before[name] for name in kept)
    assert stream is None or (width, count) == (stream, heads)
    assert plain.report.replaced if before != kept else not plain.report.replaced


@pytest.mark.parametrize(("net", "names"), [(Halves, ("left", "right")), (Slices, ("left", "right"))])
def test_equal_halves(net: type[nn.Module], names: tuple[str, str]) -> None:
    left, right = names
    rules = [{"op_names": [left], "sparsity": 0.5}, {"op_names": [right], "sparsity": 0.25}]
    plain, _ = cut(net(), IMAGE, rules)
    assert plain.report.style == "graph"
    done, kept = cut(net(), IMAGE, [{**rule, "keep_class": True} for rule in rules])
    assert (done.report.style, done.report.replaced) == ("module", ())
    # 4 and 6 asked: the first half of 11 is 5, so that one more in the first place is enough
    assert (kept[f"{left}.weight"], kept[f"{right}.weight"]) == ((5, 5) if net is Halves else (5, 6))


def test_a_number_written_in_the_code_keeps_its_size() -> None:
    net = Written(lambda self, x: self.fc(self.conv(x).view(-1, 288)), conv=nn.Conv2d(3, 8, 1), fc=nn.Linear(288, 2))
    plain, kept = cut(net, IMAGE, [{"op_names": ["conv"], "sparsity": 0.5}])
    assert (plain.report.style, kept) == ("graph", {"conv.weight": 4})
    done, kept = cut(net, IMAGE, [{"op_names": ["conv"], "sparsity": 0.5, "keep_class": True}])
    assert (done.report.style, kept) == ("unchanged", {"conv.weight": 8})


def test_multiples_stay_multiples_while_units_come_back() -> None:
    rules = [{"sparsity": 0.4, "round_to": 3, "keep_class": True}]  # heads 6 -> 6 (4 is no multiple), width 24 -> 15
    _, kept = cut(Blocks(), X, rules)
    assert kept["blocks.0.proj.weight"] == 24 and kept["blocks.0.qkv.weight"] == 6
    rules = [{"sparsity": 0.55, "round_to": 3, "keep_class": True}]  # heads 6 -> 3, width 24 -> 12
    _, kept = cut(Blocks(), X, rules)
    assert kept["blocks.0.proj.weight"] == 12 and kept["blocks.0.qkv.weight"] == 3


def test_the_best_units_come_back() -> None:
    model = Model.from_module(Slices().double())
    rows = torch.arange(8, 0, -1.0).double()[:, None, None, None].expand(8, 3, 1, 1)
    model = model.replace({"left.weight": rows.clone(), "right.weight": rows.clone()})
    rules = [{"op_names": ["left"], "sparsity": 0.5}, {"op_names": ["right"], "sparsity": 0.25}]
    masks = l1(dependency_aware).masks(
        model, Config([{**rule, "keep_class": True} for rule in rules]), example_inputs=inputs(IMAGE)
    )
    assert masks["left.weight"].flatten().tolist() == [True] * 5 + [False] * 3
    assert masks["right.weight"].flatten().tolist() == [True] * 6 + [False] * 2


def test_what_was_gone_before_does_not_come_back() -> None:
    model = Model.from_module(Slices().double())
    first = l1(dependency_aware).masks(
        model, Config([{"op_names": ["left"], "sparsity": 0.5}]), example_inputs=inputs(IMAGE)
    )
    rules = [{"op_names": ["left"], "sparsity": 0.5}, {"op_names": ["right"], "sparsity": 0.75}]
    config = Config([{**rule, "keep_class": True} for rule in rules])
    masks = l1(dependency_aware).masks(model, config, example_inputs=inputs(IMAGE), masks=first)
    gone = first & masks
    assert [int((~gone[f"{name}.weight"]).flatten(1).all(1).sum()) for name in ("left", "right")] == [4, 4]


def test_where_nothing_helps_nothing_comes_back() -> None:
    """Six of the left were gone before: the first half would have to have four."""
    model = Model.from_module(Slices().double())
    given = inputs(IMAGE)
    first = l1(dependency_aware).masks(model, Config([{"op_names": ["left"], "sparsity": 0.75}]), example_inputs=given)
    rules = [{"op_names": ["left"], "sparsity": 0.75}, {"op_names": ["right"], "sparsity": 0.25}]
    config = Config([{**rule, "keep_class": True} for rule in rules])
    masks = first & l1(dependency_aware).masks(model, config, example_inputs=given, masks=first)
    assert [int((~masks[f"{name}.weight"]).flatten(1).all(1).sum()) for name in ("left", "right")] == [6, 2]


class Separate(Attention):
    """With projections of their own, so that rules can speak of heads and of their width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        del self.qkv
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        shape = b, n, self.num_heads, c // self.num_heads
        q, k, v = (layer(x).reshape(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.proj(joined((q @ k.mT).softmax(-1) @ v).reshape(b, n, c))


def test_what_closes_the_gap_comes_back_not_what_lost_most() -> None:
    """28 of 48 channels, 4 of 6 heads and 6 of 8 places: heads have to come back, although channels lost more."""
    net = nn.Sequential(nn.Linear(6, 48), Separate(48, 6), nn.Linear(48, 3))
    rules = [
        {"op_names": ["0"], "sparsity": 0.43},
        {"op_names": ["1.q"], "sparsity": 0.34, "granularity": "head"},
        *({"op_names": [f"1.{name}"], "sparsity": 0.25, "granularity": "head_dim"} for name in "kv"),
    ]
    _, kept = cut(net, X, rules)
    assert sorted(kept.values()) == [4, 6, 6, 28, 48]
    done, kept = cut(net, X, [{**rule, "keep_class": True} for rule in rules])
    assert (done.report.style, done.report.replaced) == ("module", ())
    assert sorted(kept.values()) == [5, 6, 6, 30, 48]


def test_multiples_of_a_family_that_lies_in_both_halves() -> None:
    """Eight of twelve are kept, three of the first half and five of the other: one more would not be a multiple."""

    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return self.fc(torch.cat([a, b.relu()], 1).mean((2, 3)))

    net = Written(forward, conv=nn.Conv2d(3, 12, 1), fc=nn.Linear(12, 2)).double()
    sizes = torch.tensor([1.0, 1, 1, 9, 9, 9, 1, 9, 9, 9, 9, 9]).double()
    model = Model.from_module(net)
    model = model.replace({"conv.weight": sizes[:, None, None, None].expand(12, 3, 1, 1).clone()})
    rule = {"op_names": ["conv"], "sparsity": 0.4, "round_to": 4}
    for keep, removed in ((False, 4), (True, 0)):
        config = Config([{**rule, "keep_class": keep}])
        masks = l1(dependency_aware).masks(model, config, example_inputs=inputs(IMAGE))
        assert int((~masks["conv.bias"]).sum()) if removed else "conv.bias" not in masks
    config = Config([{**rule, "round_to": 1, "keep_class": True}])
    masks = l1(dependency_aware).masks(model, config, example_inputs=inputs(IMAGE))
    assert (~masks["conv.bias"]).nonzero().flatten().tolist() == [0, 6]


def test_layers_of_other_rules_lose_what_they_were_asked_to() -> None:
    """Without the key nothing comes back, although the class is lost."""
    rules = [{"op_names": ["left"], "sparsity": 0.5}, {"op_names": ["right"], "sparsity": 0.75, "keep_class": True}]
    done, kept = cut(Slices(), IMAGE, rules)
    assert kept == {"left.weight": 4, "right.weight": 4}
    assert done.report.style == "module"
    rules = [{"op_names": ["left"], "sparsity": 0.5, "keep_class": False}, {"op_names": ["right"], "sparsity": 0.25}]
    assert cut(Slices(), IMAGE, [rules[0], {**rules[1], "keep_class": True}])[1] == {
        "left.weight": 4,
        "right.weight": 6,
    }


def test_every_equation_holds_for_the_model_itself_and_only_what_matters_is_one() -> None:
    demands = constraints(trace(Blocks().double(), X))
    whole = {part: len(labels) for part, labels in enumerate(demands.parts)}
    assert len(demands.equations) == 4
    assert {equation.gap(whole) for equation in demands.equations} == {0}
    assert {equation.node.module for equation in demands.equations} == {"blocks.0", "blocks.1"}
    assert constraints(trace(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double(), X)).equations == ()


def test_a_run_keeps_the_class_and_reports_the_counts() -> None:
    pipeline = one_shot() | l1(dependency_aware) | speed_up(style="module")
    config = [{"op_types": ["Linear"], "sparsity": 0.4, "keep_class": True}]
    result = pipeline.run(Blocks().double(), config, example_inputs=(X,))
    assert type(result.module()) is Blocks
    assert result.module().blocks[0].num_heads == 4
    assert (result.report.channels["stem.weight"].removed, result.report.channels["blocks.1.qkv.weight"].removed) == (
        8,
        24,
    )
    assert result.task.plan["stem"].removes == "0.4, as the class allows"


def test_single_layers_have_no_class_to_keep() -> None:
    with pytest.raises(ConfigError, match="rule 0: keep_class is about whole units, and per_layer"):
        l1(per_layer).masks(Model.from_module(Slices()), Config([{"sparsity": 0.5, "keep_class": True}]))
