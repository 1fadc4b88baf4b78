"""Which masked units may go: the greatest set, with the reason for each that may not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, compact, inputs
from fprune.structure import masked_units, trace, verify
from tests.unit.toys import Written


def kept(size: int, *gone: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[list(gone)] = False
    return mask


def rows(size: int, *gone: int, ndim: int = 4) -> Tensor:
    return kept(size, *gone).view(-1, *[1] * (ndim - 1))


def compacted(net: nn.Module, masks: dict[str, Tensor], *shape: int) -> Any:
    """Compact, checked on inputs that were never traced."""
    torch.manual_seed(0)
    net = net.double().eval()
    model, x = Model.from_module(net), torch.randn(2, *shape, dtype=torch.float64)
    done = compact(model, Masks(masks), trace(model, inputs(x)))
    masked = model.replace(Masks(masks).apply(model))
    for seed in (1, 2):
        other = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert max(verify(masked, done.model, inputs(other))) < 1e-12
    return done


def chain(*, padding: int = 1, bias: bool = False, activation: nn.Module | None = None) -> nn.Sequential:
    """Two convolutions with an activation between them, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        activation or nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=padding),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def test_a_depthwise_chain_goes_whole() -> None:
    """Each depthwise row refers to its own unit: from the empty set none of them could ever be let go."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        *[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()) for _ in range(3)],
        nn.Conv2d(8, 4, 1),
    )
    columns = kept(8, 1, 5).view(1, -1, 1, 1)
    done = compacted(net, {"4.weight": columns}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 2} and not done.report.refused
    assert done.model["1.0.weight"].shape == (6, 1, 3, 3)


def test_a_constant_behind_a_transposed_convolution_stays_and_is_named() -> None:
    net = chain(bias=True)
    nn.init.constant_(net[0].bias, 0.5)
    net[2] = nn.ConvTranspose2d(8, 6, 3, padding=1)
    done = compacted(net, {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert done.report.style == "unchanged" and done.model["0.weight"].shape[0] == 8
    (why,) = done.report.refused.values()
    assert why.startswith("2 kept: a value that is not 0 enters conv_transpose2d in 2 (")


def test_a_negative_constant_dies_in_the_activation() -> None:
    net = chain(bias=True)
    nn.init.constant_(net[0].bias, -0.5)
    done = compacted(net, {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 2} and not done.report.folded


@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_is_folded_into_an_unpadded_convolution(bias: bool) -> None:
    net = chain(padding=0, activation=nn.Sigmoid())
    net[2] = nn.Conv2d(8, 6, 3, bias=bias)
    done = compacted(net, {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 2}
    assert done.report.folded == ("2.bias",) and done.lineage.folded == {"2.bias"}
    expected = 0.5 * net[2].weight[:, [0, 3]].sum((1, 2, 3)) + (net[2].bias if bias else 0)
    torch.testing.assert_close(done.model["2.bias"], expected.detach())
    assert done.report.style == "module" and isinstance(done.model.to_module()[2].bias, nn.Parameter)


def test_a_constant_is_folded_into_a_linear_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 2))
    done = compacted(net, {"0.weight": rows(8, 2, 7, ndim=2)}, 4)
    constants = nn.functional.softplus(net[0].bias[[2, 7]])
    torch.testing.assert_close(done.model["2.bias"], (net[2].bias + net[2].weight[:, [2, 7]] @ constants).detach())


def test_a_constant_that_varies_over_positions_is_not_folded() -> None:
    net = Written(lambda self, x: self.b(self.a(x) + self.table), a=nn.Linear(4, 8, False), b=nn.Linear(8, 2))
    net.table = nn.Parameter(torch.randn(5, 8))
    done = compacted(net, {"a.weight": rows(8, 1, ndim=2)}, 5, 4)
    assert done.report.style == "unchanged" and "1 kept" in str(done.report)


def test_a_shared_layer_folds_into_a_bias_of_its_own() -> None:
    """The same layer called on another value must not see the constant."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(torch.sigmoid(self.a(x))) + self.b(torch.sigmoid(self.c(x)))

    net = Written(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), c=nn.Linear(4, 8))
    masks = {"a.weight": rows(8, 1, ndim=2), "c.weight": rows(8, 1, ndim=2)}
    done = compacted(net, masks, 4)
    assert dict(done.report.removed) == {"a.weight": 1} and done.report.style == "graph"
    assert len(done.report.folded) == 2


@pytest.mark.parametrize("counted", [True, False])
def test_a_constant_behind_a_padded_average_is_no_constant(counted: bool) -> None:
    """At the border the average takes in zeros, unless it does not count them."""
    pool = nn.AvgPool2d(3, 1, padding=1, count_include_pad=counted)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), pool, nn.Conv2d(8, 2, 1))
    done = compacted(net, {"0.weight": rows(8, 0, 3)}, 3, 6, 6)
    assert done.report.style == "unchanged"


def test_the_last_channel_stays_even_if_all_of_them_are_masked() -> None:
    done = compacted(chain(), {"0.weight": torch.zeros(8, 1, 1, 1, dtype=torch.bool)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 7} and done.model["2.weight"].shape[1] == 1
    assert "1 kept: the last slice of a dimension stays" in str(done.report)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8)], ids=lambda norm: type(norm).__name__)
def test_a_channel_that_only_the_statistics_see_stays(norm: nn.Module) -> None:
    """Nothing reads it once its scale and shift are masked, but the mean and the variance take it in."""
    net = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2))
    affine = {f"1.{name}": kept(8, 2, 5) for name, _ in norm.named_parameters()}
    done = compacted(net, affine, 4)
    (why,) = done.report.refused.values()
    assert done.report.style == "unchanged" and "2 kept: a value that is not 0 enters" in why and "_norm in 1" in why
    done = compacted(net, {**affine, "0.weight": rows(8, 2, ndim=2), "0.bias": kept(8, 2)}, 4)
    assert dict(done.report.removed) == {"0.weight": 1}


def test_an_unread_channel_goes_whatever_it_holds() -> None:
    done = compacted(chain(bias=True), {"2.weight": kept(8, 4).view(1, -1, 1, 1)}, 3, 6, 6)
    assert dict(done.report.removed) == {"0.weight": 1}


def test_one_reader_that_needs_it_keeps_it() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.a(x))
        return self.b(x) + self.c(x)

    net = Written(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), c=nn.Linear(8, 2))
    columns = kept(8, 4).view(1, -1)
    assert compacted(net, {"b.weight": columns}, 4).report.style == "unchanged"
    assert dict(compacted(net, {"b.weight": columns, "c.weight": columns}, 4).report.removed) == {"a.weight": 1}


def test_the_last_slice_of_a_dimension_stays() -> None:
    done = compacted(chain(), {"0.weight": torch.zeros(8, 1, 1, 1, dtype=torch.bool)}, 3, 6, 6)
    assert done.model["0.weight"].shape[0] == 1
    assert dict(done.report.refused) == {"0.weight": "1 kept: the last slice of a dimension stays"}


def test_what_is_given_back_is_looked_at_again() -> None:
    """m[0] may go only with x[0], its one reader; x[0] is given back by a call that comes before that reader."""

    def forward(self: Any, y: Tensor) -> Tensor:
        x, m = torch.sigmoid(self.a(y)), torch.sigmoid(self.c(y))
        early = self.e(x)
        return early + self.f(x + self.d(m))

    conv = {name: nn.Conv2d(*n, 3, padding=1) for name, n in {"a": (3, 8), "c": (3, 6), "d": (6, 8)}.items()}
    net = Written(forward, **conv, e=nn.Conv2d(8, 2, 3, padding=1), f=nn.Conv2d(8, 2, 1))
    alone = torch.ones(8, 6, 1, 1, dtype=torch.bool)
    alone[1:, 0] = False
    masks = {"a.weight": rows(8, 0), "a.bias": kept(8, 0), "c.weight": rows(6, 0), "c.bias": kept(6, 0)}
    masks |= {"d.weight": alone, "f.weight": kept(8, 0).view(1, -1, 1, 1)}
    done = compacted(net, masks, 3, 6, 6)
    assert done.report.style == "unchanged" and len(done.report.refused) == 2


def test_a_norm_over_channels_needs_zeros() -> None:
    net = Written(
        lambda self, x: self.b(self.norm(self.a(x) + self.shift)),
        a=nn.Linear(4, 8, False),
        b=nn.Linear(8, 2),
        norm=nn.LayerNorm(8),
        shift=nn.Parameter(torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0])),
    )
    columns = kept(8, 0, 1)
    masks = {"a.weight": columns[:, None], "norm.weight": columns, "norm.bias": columns}
    done = compacted(net, masks, 4)
    assert dict(done.report.removed) == {"a.weight": 1}
    assert "enters layer_norm in norm" in next(iter(done.report.refused.values()))


def test_a_product_of_activations_needs_one_zero() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) @ self.b(x).transpose(1, 2)

    net = Written(forward, a=nn.Linear(4, 8), b=nn.Linear(4, 8))
    silent = {"a.weight": rows(8, 3, ndim=2), "a.bias": kept(8, 3)}
    assert dict(compacted(net, silent, 5, 4).report.removed) == {"a.weight": 1}
    constant = {"a.weight": rows(8, 3, ndim=2)}
    assert compacted(net, constant, 5, 4).report.style == "unchanged"


def test_a_weight_computed_from_the_input_takes_no_constants() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return nn.functional.linear(self.a(x), self.made(x[0]).view(3, 8))

    net = Written(forward, a=nn.Linear(4, 8), made=nn.Linear(4, 24))
    constant = {"a.weight": rows(8, 3, ndim=2)}
    assert compacted(net, constant, 4).report.style == "unchanged"
    assert dict(compacted(net, {**constant, "a.bias": kept(8, 3)}, 4).report.removed) == {"a.weight": 1}


def test_what_a_mask_asks_for() -> None:
    """A unit is asked for when one of its slices is masked whole, however the mask is written."""
    model = Model.from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    structure = trace(model, inputs(torch.zeros(1, 3)))
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    (family,) = structure.families

    def asked(**masks: Tensor) -> list[int]:
        named = Masks({name.replace("_", ".").lstrip("w"): mask for name, mask in masks.items()})
        return family.labels[masked_units(structure, named, shapes)[family.labels]].tolist()

    every = family.labels.tolist()
    assert asked(w0_weight=rows(4, 1, ndim=2)) == every[1:2]
    assert asked(w0_weight=rows(4, 1, ndim=2).expand(4, 3)) == every[1:2]
    assert asked(w2_weight=kept(4, 2)) == every[2:3]
    assert asked(w0_bias=kept(4, 0, 3)) == [every[0], every[3]]
    partial = torch.ones(4, 3, dtype=torch.bool)
    partial[1, :2] = False
    assert asked(w0_weight=partial) == []
    assert asked(w2_weight=torch.zeros(1, 1, dtype=torch.bool)) == every
    assert asked() == []
