"""Constants that enter padded convolutions: one channel stands in for the others, exactly."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, compact, inputs
from fprune.structure import bisimulate, trace, verify
from tests.unit.structure.test_decide import compacted, kept, rows
from tests.unit.toys import Written


def chain(second: nn.Module, *, first: int = 8) -> nn.Sequential:
    """A convolution whose masked filters leave different constants, an activation, and the layer under test."""
    net = nn.Sequential(nn.Conv2d(3, first, 3, padding=1), nn.Sigmoid(), second)
    nn.init.normal_(net[0].bias, generator=torch.Generator().manual_seed(0))
    return net


@pytest.mark.parametrize(
    "second",
    [
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.Conv2d(8, 6, 3, padding="same"),
        nn.Conv2d(8, 6, (3, 1), padding=(1, 0), stride=2),
        nn.Conv2d(8, 6, 3, padding=4, dilation=3),
        nn.Conv2d(8, 6, 1, padding=2),
    ],
    ids=str,
)
def test_all_but_the_largest_constant_go(second: nn.Conv2d) -> None:
    net = chain(second)
    done = compacted(net, {"0.weight": rows(8, 0, 3, 5)}, 3, 9, 9)
    assert dict(done.report.removed) == {"0.weight": 2} and done.report.style == "module"
    (why,) = done.report.refused.values()
    assert why.startswith("1 kept: it stands in for the constants that enter conv2d in 2 (")
    assert done.report.folded == ("2.weight",) and done.lineage.folded == {"2.weight"}
    constants = torch.sigmoid(net[0].bias.detach())
    own = max([0, 3, 5], key=lambda j: constants[j])
    (left,) = set(done.lineage.kept["0.weight"][0].tolist()).intersection([0, 3, 5])
    assert left == own, "the largest constant has the most digits"
    weight = second.weight.detach()
    expected = sum(constants[j] / constants[own] * weight[:, j] for j in (0, 3, 5))
    at = done.lineage.kept["2.weight"][1].tolist().index(own)
    torch.testing.assert_close(done.model["2.weight"][:, at], expected)
    others = [j for j in range(8) if j not in (0, 3, 5)]
    places = [done.lineage.kept["2.weight"][1].tolist().index(j) for j in others]
    assert torch.equal(done.model["2.weight"][:, places], weight[:, others])


def test_a_constant_that_stays_anyway_stands_in() -> None:
    """A channel that is constant without being asked for takes up all of the others."""
    net = chain(nn.Conv2d(8, 6, 3, padding=1))
    with torch.no_grad():
        net[0].weight[6] = 0
    done = compacted(net, {"0.weight": rows(8, 1, 2)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 2} and not done.report.refused


def test_a_constant_that_is_much_smaller_does_not_stand_in() -> None:
    net = chain(nn.Conv2d(8, 6, 3, padding=1))
    with torch.no_grad():
        net[0].weight[6] = 0
        net[0].bias[6] = -20
    done = compacted(net, {"0.weight": rows(8, 1, 2)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 1} and list(done.report.refused) == ["0.weight"]


def test_every_group_has_its_own() -> None:
    net = chain(nn.Conv2d(8, 4, 3, padding=1, groups=2))
    done = compacted(net, {"0.weight": rows(8, 0, 1, 4, 5)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 1}, "index 0 or 1 of both groups goes with both its units"
    assert done.model["2.weight"].shape == (4, 3, 3, 3)


def test_groups_may_need_different_ones() -> None:
    """Channel 0 is a constant in the first group and dead in the second, where channel 1 has to stand in."""
    net = chain(nn.Conv2d(8, 4, 3, padding=1, groups=2))
    net[1] = nn.ReLU()
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([2.0, 1.0, 1.0, 0.0, -1.0, 3.0, 1.0, 0.0]))
    done = compacted(net, {"0.weight": rows(8, 0, 1, 2, 4, 5, 6)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 1}
    assert done.lineage.kept["2.weight"][1].tolist() == [0, 1, 3]


def test_a_depthwise_convolution_has_nothing_to_stand_in() -> None:
    net = nn.Sequential(*chain(nn.Conv2d(8, 8, 3, padding=1, groups=8)), nn.Conv2d(8, 2, 1))
    done = compacted(net, {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert done.report.style == "unchanged" and "2 kept" in str(done.report.refused)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_the_values_themselves_needs_none(mode: str) -> None:
    done = compacted(chain(nn.Conv2d(8, 6, 3, padding=1, padding_mode=mode)), {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 2} and done.report.folded == ("2.bias",)


def test_a_weight_that_something_else_reads_is_not_changed() -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        return self.b(torch.sigmoid(self.a(x))) + self.b(torch.sigmoid(self.c(x)))

    def penalised(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(torch.sigmoid(self.a(x))), self.b.weight.square().sum()

    for forward in (twice, penalised):
        parts = {name: nn.Conv2d(*sizes, 3, padding=1) for name, sizes in (("a", (3, 8)), ("b", (8, 6)), ("c", (3, 8)))}
        masks = {"a.weight": rows(8, 0, 3), "c.weight": rows(8, 0, 3)} if forward is twice else {"a.weight": rows(8, 0)}
        done = compacted(Written(forward, **parts), masks, 3, 6, 6)
        assert done.report.style == "unchanged"


def test_one_stands_in_everywhere_if_it_can() -> None:
    """Two convolutions see the same units with other constants; a third sees nothing of some of them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.sigmoid(y)) + self.c(torch.sigmoid(y * self.scale)) + self.d(torch.relu(y))

    parts = {name: nn.Conv2d(8, 6, 3, padding=1) for name in "bcd"}
    net = Written(forward, a=nn.Conv2d(3, 8, 3, padding=1), **parts)
    net.scale = nn.Parameter(torch.randn(8, 1, 1))
    with torch.no_grad():
        net.a.bias.copy_(torch.tensor([2.0, 3.0, 1.0, -1.0, -2.0, 0.5, -3.0, 4.0]))
    done = compacted(net, {"a.weight": rows(8, 0, 1, 3, 4, 6)}, 3, 6, 6)
    assert dict(done.report.removed) == {"a.weight": 4} and list(done.report.refused) == ["a.weight"]
    assert {"b.weight", "c.weight", "d.weight"} == set(done.report.folded)
    done = compacted(net, {"a.weight": rows(8, 3, 4, 6)}, 3, 6, 6)
    assert dict(done.report.removed) == {"a.weight": 2}
    assert {"b.weight", "c.weight"} == set(done.report.folded), "negative constants vanish in the ReLU"


def test_where_none_serves_both_each_has_its_own() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.relu(y)) + self.c(torch.relu(-y))

    net = Written(forward, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 6, 3, padding=1), c=nn.Conv2d(8, 6, 3, padding=1))
    with torch.no_grad():
        net.a.bias.copy_(torch.tensor([2.0, -3.0, 1.0, -1.0, -2.0, 0.5, -3.0, 4.0]))
    done = compacted(net, {"a.weight": rows(8, 0, 1, 2, 3)}, 3, 6, 6)
    assert dict(done.report.removed) == {"a.weight": 2}


def test_a_constant_map_has_no_factor() -> None:
    net = Written(
        lambda self, x: self.b(self.a(x) + self.table), a=nn.Conv2d(3, 8, 1, bias=False), b=nn.Conv2d(8, 2, 3, 1, 1)
    )
    net.table = nn.Parameter(torch.randn(8, 6, 6))
    done = compacted(net, {"a.weight": rows(8, 1, 2)}, 3, 6, 6)
    assert done.report.style == "unchanged" and "2 kept" in str(done.report.refused)


def deep() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Softplus(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Softplus(),
        nn.Conv2d(8, 4, 3, padding=1),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_two_rounds(dtype: torch.dtype) -> None:
    """What took up constants in one round hands them on in the next; its own mask no longer says that it is 0."""
    torch.manual_seed(1)
    net = deep().eval().to(dtype)
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    model = Model.from_module(net)
    columns = kept(8, 2, 5).view(1, -1, 1, 1) | (torch.arange(8) % 2 == 0).view(-1, 1, 1, 1)
    masks = Masks({"0.weight": rows(8, 0, 2, 5), "3.weight": rows(8, 1, 4) & columns})
    masked = model.replace(masks.apply(model))
    structure = trace(model, inputs(x))
    first = compact(model, masks, structure)
    assert dict(first.report.removed) == {"0.weight": 2, "3.weight": 1}
    assert first.model["0.weight"].dtype == dtype == first.model["3.weight"].dtype
    again = first.model.replace(first.masks.apply(first.model))
    assert max(verify(first.model, again, inputs(x))) == 0, "the masks that are left change nothing"
    more = Masks({"0.weight": rows(6, 0, 1, 2, 3), "3.weight": rows(7, 0, 1, 5)})
    second = compact(first.model, first.masks & more, first.structure)
    assert sum(second.report.removed.values()) >= 4
    together = first.lineage.expand_masks(first.masks & more)
    once = compact(model, together, structure)
    assert once.model["0.weight"].shape == second.model["0.weight"].shape
    if dtype == torch.float64:
        both = model.replace(together.apply(model))
        assert max(verify(both, once.model, inputs(x))) < 1e-12
        assert max(verify(masked, first.model, inputs(x))) < 1e-12
        assert bisimulate(model, masks, structure, tolerance=1e-12) == ()
        assert bisimulate(first.model, first.masks & more, first.structure, tolerance=1e-12) == ()
