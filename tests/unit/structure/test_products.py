"""Products with parameters, and programs of token models: constants that are folded, sizes that follow the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, compact, inputs
from fprune.structure import trace, verify
from fprune.structure.equations import equation
from fprune.structure.expressions import Combined, Size, resized
from tests.unit.toys import Written
from tests.zoo.attention import Added, Torch
from tests.zoo.case import randomised


def pruned(net: nn.Module, masks: dict[str, Tensor], *shape: int) -> Any:
    """Compact as a graph, checked with three samples where two were traced."""
    torch.manual_seed(0)
    net = randomised(net, 1).double().eval()
    model, x = Model.from_module(net), torch.randn(2, *shape, dtype=torch.float64)
    done = compact(model, Masks(masks), trace(model, inputs(x)), style="graph")
    more = torch.randn(3, *shape, dtype=torch.float64)
    assert max(verify(model.replace(Masks(masks).apply(model)), done.model, inputs(more))) < 1e-6
    return done


def kept(n: int, gone: int) -> Tensor:
    return torch.arange(n) >= gone


def test_a_bias_that_is_added_takes_constants() -> None:
    """sigmoid(0) = 1/2 enters the second product."""
    net = Added()
    done = pruned(net, {"weight1": kept(20, 4)[None], "bias1": kept(20, 4)}, 5, 6)
    assert sum(done.report.removed.values()) == 4
    assert done.report.folded == ("bias2",)
    expected = net.bias2 + 0.5 * net.weight2[:4].sum(0)
    torch.testing.assert_close(done.model["bias2"], expected.detach())


@pytest.mark.parametrize("scale", [{"alpha": 2}, {"beta": 2}])
def test_a_scaled_bias_takes_none(scale: dict[str, int]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, torch.sigmoid(self.a(x)), self.weight, **scale)

    net = Written(forward, a=nn.Linear(4, 8))
    net.bias, net.weight = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(8, 3))
    done = pruned(net, {"a.weight": kept(8, 2)[:, None], "a.bias": kept(8, 2)}, 4)
    assert done.report.style == "unchanged" and "2 kept" in str(done.report)


def test_a_product_without_a_bias_keeps_constants() -> None:
    net = Written(lambda self, x: torch.sigmoid(self.a(x)) @ self.weight, a=nn.Linear(4, 8))
    net.weight = nn.Parameter(torch.zeros(8, 3))
    masks = {"a.weight": kept(8, 2)[:, None], "a.bias": kept(8, 2)}
    assert pruned(net, masks, 4).report.style == "unchanged"
    assert sum(pruned(net, {**masks, "weight": kept(8, 2)[:, None]}, 4).report.removed.values()) == 2


def test_a_reader_that_goes_need_not_be_zero() -> None:
    """Rows of the second weight are read by columns of the third alone: from the end back, both go."""
    net = Written(lambda self, x: (x @ self.first).exp() @ self.second @ self.third)
    shapes = {"first": (4, 8), "second": (8, 6), "third": (6, 3)}
    net.first, net.second, net.third = (nn.Parameter(torch.zeros(shape)) for shape in shapes.values())
    reads_the_last = torch.ones(8, 6, dtype=torch.bool)
    reads_the_last[0, :5] = False  # the first of eight is read by the last of six, which nobody reads
    columns = (torch.arange(6) < 5)[:, None]
    done = pruned(net, {"second": reads_the_last, "third": columns}, 4)
    assert [tuple(done.model[name].shape) for name in shapes] == [(4, 8), (8, 5), (5, 3)]
    both = reads_the_last & (torch.arange(8) > 0)[:, None]
    assert tuple(pruned(net, {"second": both, "third": columns}, 4).model["first"].shape) == (4, 7)


def test_sequences_and_sizes_follow_the_batch() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a(x).relu()
        counted = torch.arange(x.shape[0], device=x.device)[:, None, None]
        samples = x.flatten(0, 1).shape[0] // x.shape[1]  # read from a value that nothing else is read from
        added = torch.arange(x.shape[1], device=x.device).expand(samples, -1)
        return self.b(hidden * counted + added[:, :, None])

    net = Written(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    done = pruned(net, {"a.weight": kept(8, 2)[:, None], "a.bias": kept(8, 2), "b.weight": kept(8, 2)[None]}, 5, 4)
    assert sum(done.report.removed.values()) == 2


def test_a_batch_that_is_found_by_dividing() -> None:
    """Batch and heads in one dimension: their product divided by the number of heads, which changes."""

    def forward(self: Any, x: Tensor) -> Tensor:
        heads = self.a(x).unflatten(-1, (4, 3)).transpose(1, 2).flatten(0, 1)
        joined = heads.view(heads.shape[0] // 4, -1, heads.shape[1], 3)
        return self.b(joined.transpose(1, 2).flatten(2))

    net = Written(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 2))
    gone = torch.arange(12) >= 3  # one head
    done = pruned(net, {"a.weight": gone[:, None], "a.bias": gone, "b.weight": gone[None]}, 5, 4)
    assert sum(done.report.removed.values()) == 1 and done.model["a.weight"].shape == (9, 4)


def test_a_divided_size_is_divided_by_what_is_left() -> None:
    """6 = 2 samples of 3 heads, where the code still says 4; 3 samples make 9."""
    expression = Combined("//", Size(0, 0), 4)
    assert resized(2, expression, lambda _: 6, lambda _: 9) == 3


def test_what_a_model_rounds_is_forgiven() -> None:
    """A norm that computes in float32 whatever comes: sums in another order differ by its rounding."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3)
        return self.b(wide.to(x.dtype))

    net = Written(forward, a=nn.Linear(64, 96), b=nn.Linear(96, 2))
    third = torch.arange(96) % 3 != 0
    done = pruned(net, {"a.weight": third[:, None], "a.bias": third}, 64)
    assert sum(done.report.removed.values()) == 32 and 1e-12 < done.report.difference < 1e-4


def test_families_of_one_tensor_have_names_of_their_own() -> None:
    structure = trace(Torch(), torch.randn(2, 5, 6))
    heads, widths = structure.family_of("attention.in_proj_weight")
    assert {len(heads), len(widths)} == {3, 4}
    assert {heads.name, widths.name} == {"attention.in_proj_weight", "attention.in_proj_weight#2"}


@pytest.mark.parametrize(
    ("text", "ndims", "expected"),
    [
        ("ij,jk", (2, 2), "ij,jk->ik"),
        ("b...d,de->b...e", (4, 2), "bacd,de->bace"),
        ("...ij,...jk", (4, 3), "abij,bjk->abik"),
        ("i j -> j i", (2,), "ij->ji"),
        ("ii->i", (2,), None),
        ("...i->i", (3,), None),
    ],
)
def test_equations_of_einsum(text: str, ndims: tuple[int, ...], expected: str | None) -> None:
    found = equation("einsum", {"equation": text}, ndims)
    assert (found.text if found else None) == expected
