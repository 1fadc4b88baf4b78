"""Scores from derivatives, re-derived with plain autograd on copies of the modules and with explicit loops."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune.criteria import (
    Criterion,
    curvature,
    fisher_diagonal,
    gradient_flow,
    sensitivity,
    squared_change,
    synaptic_flow,
)
from fprune.criteria.curvature import signs
from fprune.criteria.linear import single_rows
from fprune.layers import unit_view
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import synflow
from fprune.scope import Scope
from tests.oracle.networks import Case, cases

NAMES = ("plain", "frozen", "branches", "tied")
close = {"rtol": 1e-9, "atol": 1e-12}


def scores(case: Case, criterion: Criterion, grain: Any = None) -> dict[str, Tensor]:
    model = case.model
    return criterion(model, model.layers, grain)


def weights(case: Case, net: nn.Module) -> dict[str, Tensor]:
    """The module's own tensors of the layers that are scored, ties by their canonical name."""
    own = dict(net.named_parameters(remove_duplicate=False))
    return {layer.weight: own[layer.weight] for layer in case.model.layers}


def slopes(value: Tensor, of: dict[str, Tensor], graph: bool = False) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(of.values()), create_graph=graph)
    return dict(zip(of, found, strict=True))


def per_batch(case: Case, training: bool = False) -> list[dict[str, Tensor]]:
    """The gradient of every batch times the weights."""
    net = case.reference(training)
    own = weights(case, net)
    return [
        {name: own[name].detach() * g for name, g in slopes(case.loss(net, batch), own).items()}
        for batch in case.batches
    ]


@pytest.mark.parametrize("name", [*NAMES, "recurrent"])
def test_taylor_squares_the_change_of_every_batch(name: str) -> None:
    case = cases()[name]
    changes = per_batch(case)
    found = scores(case, squared_change(case.loss, case.batches), "element")
    by_channel = scores(case, squared_change(case.loss, case.batches), "channel")
    jointly = scores(case, squared_change(case.loss, case.batches, joint=True), "channel")
    for layer in case.model.layers:
        squares = sum(change[layer.weight] ** 2 for change in changes)
        torch.testing.assert_close(found[layer.weight], squares, **close)
        torch.testing.assert_close(by_channel[layer.weight], unit_view(squares, layer).sum(1), **close)
        sums = sum(unit_view(change[layer.weight], layer).sum(1) ** 2 for change in changes)
        torch.testing.assert_close(jointly[layer.weight], sums, **close)


def test_taylor_in_training_mode_normalises_by_the_batch() -> None:
    case = cases()["branches"]
    case.net.drop.p = 0.0
    changes = per_batch(case, training=True)
    found = scores(case, squared_change(case.loss, case.batches, training=True), "element")
    for name, values in found.items():
        torch.testing.assert_close(values, sum(change[name] ** 2 for change in changes), **close)
    other = scores(case, squared_change(case.loss, case.batches), "element")
    assert not torch.allclose(found["conv.weight"], other["conv.weight"])


@pytest.mark.parametrize("name", [*NAMES, "recurrent"])
def test_snip_is_the_derivative_of_a_gate(name: str) -> None:
    case = cases()[name]
    found = scores(case, sensitivity(case.loss, case.batches))
    net = case.reference()
    for key in found:
        # a gate on all of a weight at once: its derivative, by differences, is the sum over the weight
        own = weights(case, net)[key].data
        kept, step, total = own.clone(), 1e-5, 0.0
        for sign in (1, -1):
            own.copy_(kept * (1 + sign * step))
            total += sign * sum(case.loss(net, batch).item() for batch in case.batches)
        own.copy_(kept)
        signed = sum(change[key] for change in per_batch(case))
        torch.testing.assert_close(found[key], signed.abs(), **close)
        assert float(signed.sum()) == pytest.approx(total / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_grasp_is_half_the_slope_of_the_squared_norm_of_the_gradient(name: str) -> None:
    case = cases()[name]
    net = case.reference()
    own = weights(case, net)
    total = sum(case.loss(net, batch) for batch in case.batches)
    norm = sum((g**2).sum() for g in slopes(total, own, graph=True).values())
    found = scores(case, gradient_flow(case.loss, case.batches))
    for key, slope in slopes(norm, own).items():
        torch.testing.assert_close(found[key], own[key].detach() * slope / 2, **close)


def test_grasp_under_masks_counts_the_gradient_of_what_is_left() -> None:
    case = cases()["plain"]
    draw = torch.Generator().manual_seed(0)
    keep = {name: torch.rand(case.model[name].shape, generator=draw) > 0.4 for name in ("0.weight", "2.weight")}
    net = case.reference()
    own = weights(case, net)
    for name, mask in keep.items():
        own[name].data.mul_(mask)
    total = sum(case.loss(net, batch) for batch in case.batches)
    norm = sum((g[keep[name]] ** 2).sum() for name, g in slopes(total, own, graph=True).items())
    scope = Scope.of(case.model, masks=Masks(keep))
    found = gradient_flow(case.loss, case.batches)(scope, scope.layers)
    for name, slope in slopes(norm, own).items():
        expected = (own[name].detach() * slope / 2)[keep[name]]
        torch.testing.assert_close(found[name][keep[name]], expected, **close)


def test_grasp_foretells_what_a_smaller_weight_does_to_the_norm_of_the_gradient() -> None:
    case = cases()["plain"]
    found = scores(case, gradient_flow(case.loss, case.batches))
    net = case.reference()
    own = weights(case, net)

    def norm() -> float:
        total = sum(case.loss(net, batch) for batch in case.batches)
        return sum((g**2).sum() for g in slopes(total, own).values()).item()

    before, share, (key, weight) = norm(), 1e-6, next(iter(own.items()))
    for index in itertools.product(*map(range, weight.shape)):
        kept = weight[index].item()
        weight.data[index] = kept * (1 - share)
        change = (norm() - before) / share
        weight.data[index] = kept
        # a high score: without the weight the norm falls, so the weight is worth keeping
        assert change == pytest.approx(-2 * float(found[key][index]), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", [*NAMES, "recurrent"])
def test_fisher_squares_the_gradient_of_every_sample(name: str, reduction: str) -> None:
    case = cases()[name]
    net = case.reference()
    own = weights(case, net)

    def loss(model: Any, batch: Any) -> Tensor:
        size = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
        return case.loss(model, batch) * (size if reduction == "sum" else 1)

    total = {key: torch.zeros_like(weight) for key, weight in own.items()}
    count = 0
    for batch in case.batches:
        values = list(batch.values()) if isinstance(batch, dict) else list(batch)
        for n in range(len(values[0])):
            rows = [value[n : n + 1] for value in values]
            one = dict(zip(batch, rows, strict=True)) if isinstance(batch, dict) else tuple(rows)
            for key, slope in slopes(case.loss(net, one), own).items():
                total[key] += slope**2
            count += 1
    found = scores(case, fisher_diagonal(loss, case.batches))
    for key, weight in own.items():
        torch.testing.assert_close(found[key], total[key] / count * weight.detach() ** 2 / 2, **close)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"0.weight", "2.weight"}),
        ("branches", {"head.weight"}),
        ("tied", {"last.weight"}),  # `mix` sees a sequence, the head is the embedding
        ("recurrent", {"head.weight"}),
    ],
)
def test_fisher_knows_which_gradients_are_outer_products(name: str, expected: set[str]) -> None:
    case = cases()[name]
    model = case.model.eval()
    own = {layer.weight: model[layer.weight] for layer in model.layers}
    batch = case.batches[0]
    first = {k: v[:1] for k, v in batch.items()} if isinstance(batch, dict) else tuple(v[:1] for v in batch)
    assert set(single_rows(own, lambda: case.loss(model, first))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_hessian_is_hutchinsons_estimate(name: str) -> None:
    """The same signs, and products with the Hessian by a second backward pass."""
    case, probes = cases()[name], 3
    model = case.model
    scope = Scope.of(model, seed=11)
    net = case.reference()
    own = weights(case, net)
    total = {key: torch.zeros_like(weight) for key, weight in own.items()}
    for number, batch in enumerate(case.batches):
        slope = slopes(case.loss(net, batch), own, graph=True)
        for probe in range(probes):
            drawn = {layer.weight: signs(scope, layer, f"hessian, batch {number}", probe) for layer in model.layers}
            assert all(set(sign.unique().tolist()) <= {-1.0, 1.0} for sign in drawn.values())
            along = sum((slope[key] * drawn[key]).sum() for key in own)
            turned = torch.autograd.grad(along, list(own.values()), retain_graph=True)
            for key, value in zip(own, turned, strict=True):
                total[key] += drawn[key] * value
    found = curvature(case.loss, case.batches, probes=probes)(scope, model.layers)
    for key, weight in own.items():
        h = total[key] / (probes * len(case.batches))
        torch.testing.assert_close(found[key], h * weight.detach() ** 2 / 2, **close)


def test_hessian_tends_to_the_diagonal() -> None:
    case = cases()["frozen"]
    net = case.reference()
    own = weights(case, net)
    exact = {key: torch.zeros_like(weight) for key, weight in own.items()}
    for batch in case.batches:
        for key, slope in slopes(case.loss(net, batch), own, graph=True).items():
            for index in itertools.product(*map(range, slope.shape)):
                second = torch.autograd.grad(slope[index], own[key], retain_graph=True)[0]
                exact[key][index] += second[index] / len(case.batches)
    probes = 100
    found = scores(case, curvature(case.loss, case.batches, probes=probes))
    for key, weight in own.items():
        expected = exact[key] * weight.detach() ** 2 / 2
        error = (found[key] - expected).abs().max() / expected.abs().max()
        assert float(error) < 5 / math.sqrt(probes)


def test_hessian_without_other_entries_is_exact() -> None:
    """Inputs along the axes: the Hessian of a linear layer's squares is diagonal, and any signs give it."""
    model = Model.from_module(nn.Linear(3, 2, bias=False))
    inputs = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    found = curvature(lambda model, x: model(x).square().sum() / 2, [inputs], probes=1)(model, model.layers)["weight"]
    torch.testing.assert_close(found, 0.5 * torch.tensor([1.0, 4.0, 9.0]) * model["weight"] ** 2)


def test_synflow_of_a_chain_is_the_sum_over_paths() -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    model = Model.from_module(net)
    first, last = model["0.weight"].abs().tolist(), model["2.weight"].abs().tolist()
    expected = {"0.weight": torch.zeros(4, 3).double(), "2.weight": torch.zeros(2, 4).double()}
    for i, j, k in itertools.product(range(3), range(4), range(2)):
        expected["0.weight"][j, i] += first[j][i] * last[k][j]
        expected["2.weight"][k, j] += first[j][i] * last[k][j]
    scope = Scope.of(model, example_inputs=-torch.ones(1, 3).double())
    found = synaptic_flow()(scope, scope.layers)
    for key, values in found.items():
        torch.testing.assert_close(values, expected[key], **close)


class Norms(nn.Module):
    """A convolution, a norm and a residual connection, all without anything that could turn negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor, flip: bool = False) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.inner(x) + x)
        return self.fc(x.mean((2, 3))), x.argmax(1)


def absolute_flow(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[float, dict[str, Tensor]]:
    """R and |w| dR/d|w| with plain autograd."""
    linear = copy.deepcopy(net).double().eval().requires_grad_(True)
    for param in linear.parameters():
        param.data.abs_()
    for name, buffer in linear.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    total = linear(*[torch.ones_like(value).double() for value in inputs])[0].sum()
    own = {name: value for name, value in linear.named_parameters() if value.ndim > 1}
    return total.item(), {name: own[name].detach() * g for name, g in slopes(total, own).items()}


def test_synflow_reads_norms_and_several_outputs() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Norms()
    net.norm.running_mean.add_(5.0)
    net.norm.running_var.mul_(3.0)
    x = torch.randn(1, 2, 4, 4)
    scope = Scope.of(Model.from_module(net), example_inputs=(x, True))
    found = synaptic_flow()(scope, [layer for layer in scope.layers if len(layer.shape) > 1])
    _, expected = absolute_flow(net, (x,))
    assert set(found) == set(expected)
    for key, values in found.items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, expected[key], **close)


def test_synflow_conserves_the_flow_in_every_layer() -> None:
    widths = (3, 8, 6, 5, 2)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    net = nn.Sequential(*layers)
    scope = Scope.of(Model.from_module(net), example_inputs=torch.ones(1, 3))
    total, _ = absolute_flow(nn.Sequential(net, nn.Identity(), Wrapped()), (torch.ones(1, 3),))
    for values in synaptic_flow()(scope, scope.layers).values():
        assert float(values.sum()) == pytest.approx(total, rel=1e-12)


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


def test_synflow_does_not_overflow_where_float32_would() -> None:
    net = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(30)])
    model = Model.from_module(net)
    model = model.replace({name: torch.full((4, 4), 50.0) for name in model})
    scope = Scope.of(model, example_inputs=torch.ones(1, 4))
    assert all(float(values.max()) > 1e50 for values in synaptic_flow()(scope, scope.layers).values())


@pytest.mark.parametrize("rounds", [1, 7])
def test_synflow_takes_scores_again_after_every_round(rounds: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 10, bias=False), nn.ReLU(), nn.Linear(10, 3, bias=False))
    copied = copy.deepcopy(net).double()
    own = dict(copied.named_parameters())
    n, sparsity = sum(weight.numel() for weight in own.values()), 0.8
    alive = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in own.items()}
    for k in range(1, rounds + 1):
        wrapped = nn.Sequential(copied, Wrapped())
        _, flow = absolute_flow(wrapped, (torch.ones(1, 4),))
        ranked = sorted(
            (float(flow[f"0.{name}"][index]) if alive[name][index] else -1.0, name, index)
            for name in own
            for index in itertools.product(*map(range, own[name].shape))
        )
        goal = sparsity if k == rounds else 1 - (1 - sparsity) ** (k / rounds)
        for _, name, index in ranked[: math.floor(goal * n + 1e-9)]:
            alive[name][index] = False
            own[name].data[index] = 0.0
    masks = synflow(rounds=rounds).masks(Model.from_module(net), sparsity, example_inputs=torch.ones(1, 4))
    assert {name: mask.tolist() for name, mask in masks.items()} == {k: v.tolist() for k, v in alive.items()}
