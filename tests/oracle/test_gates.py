"""Gates in front of weights against gates that multiply activations, written into copies of the networks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune import Model, dependency_aware, taylor
from fprune.criteria import activation_taylor
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError
from fprune.scope import Scope
from fprune.tree import digest


class Gate(nn.Module):
    """Multiplies the channels along a dimension by a parameter of ones."""

    def __init__(self, units: int, dim: int) -> None:
        super().__init__()
        self.z, self.dim = nn.Parameter(torch.ones(units)), dim

    def forward(self, x: Tensor) -> Tensor:
        return x * self.z.view([-1 if d == self.dim % x.ndim else 1 for d in range(x.ndim)])


class Written(nn.Module):
    """A layer, a norm or none, and the gate behind one of them."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, gate: nn.Module | None, behind: str) -> None:
        super().__init__()
        self.layer, self.norm, self.gate, self.behind = layer, norm, gate, behind

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.gate is not None and self.behind == "layer":
            x = self.gate(x)
        x = x if self.norm is None else self.norm(x)
        return self.gate(x) if self.gate is not None and self.behind == "norm" else x


class Net(nn.Module):
    """A block, a function, a block that is used twice, and a classifier over the mean."""

    def __init__(self, first: nn.Module, again: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.first, self.again, self.head = first, again, head

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.first(x))
        x = torch.tanh(self.again(F.relu(self.again(x))))
        return self.head(x.flatten(2).mean(2) if x.ndim == 4 else x.mean(1))


def shaken(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape) / 4)
        for value in module.buffers():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape))
    return module


CASES: dict[str, tuple[Callable[[], list[nn.Module | None]], tuple[int, ...], int]] = {
    "convolutions": (
        lambda: [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)],
        (3, 5, 5),
        1,
    ),
    "tokens": (lambda: [nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6)], (4, 3), -1),
    "transposed": (
        lambda: [nn.ConvTranspose2d(3, 6, 2), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 6, 2, groups=2), None],
        (3, 4, 4),
        1,
    ),
}


def loss(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    x, target = batch
    return F.cross_entropy(model(x), target)


def by_hand(parts: list, head: nn.Module, dim: int, behind: str, data: list, mode: bool) -> dict[str, list[Tensor]]:
    """The slope of every gate on every batch."""
    gates = [Gate(6, dim), Gate(6, dim)]
    where = [behind if parts[n] is not None else "layer" for n in (1, 3)]
    blocks = [Written(parts[2 * n], parts[2 * n + 1], gates[n], where[n]) for n in (0, 1)]
    net = Net(blocks[0], blocks[1], head).double().train(mode)
    found: dict[str, list[Tensor]] = {"first.layer.weight": [], "again.layer.weight": []}
    for batch in data:
        slopes = torch.autograd.grad(loss(net, batch), [gate.z for gate in gates])
        for name, slope in zip(found, slopes, strict=True):
            found[name].append(slope.double())
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("behind", ["layer", "norm"])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_slopes_of_gates(name: str, behind: str, training: bool) -> None:
    torch.manual_seed(0)
    make, shape, dim = CASES[name]
    parts, head = [part and shaken(part) for part in make()], nn.Linear(6, 4)
    net = Net(Written(parts[0], parts[1], None, ""), Written(parts[2], parts[3], None, ""), head).double()
    data = [(torch.randn(n, *shape).double(), torch.randint(0, 4, (n,))) for n in (3, 5)]
    model = Model.from_module(net)
    before = digest(model), digest(model.buffers)
    scope = Scope.of(model, example_inputs=(data[0][0],))
    layers = [layer for layer in model.layers if layer.name in ("first.layer", "again.layer")]
    slopes = by_hand(parts, head, dim, behind, data, training)
    for squared in (True, False):
        scores = activation_taylor(loss, data, behind, squared, training)(scope, layers)
        for weight, each in slopes.items():
            expected = sum(z.square() for z in each) if squared else sum(each).abs()
            torch.testing.assert_close(scores[weight], expected, rtol=1e-9, atol=1e-14)
            assert expected.unique().numel() > 1
    assert (digest(model), digest(model.buffers)) == before


def test_behind_a_norm_is_another_place_than_behind_the_layer() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), shaken(nn.BatchNorm2d(6)), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4))
    model, data = Model.from_module(net), [(torch.randn(8, 3, 3, 3), torch.randint(0, 4, (8,)))]
    scope = Scope.of(model, example_inputs=(data[0][0],))
    layer, norm = (activation_taylor(loss, data, b)(scope, model.layers[:1])["0.weight"] for b in ("layer", "norm"))
    assert not torch.allclose(layer, norm, rtol=0.1)


@pytest.mark.parametrize(
    "parts",
    [
        [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Flatten()],  # the norm follows a function
        [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Flatten()],  # it has no scale
        [nn.Flatten(2), nn.Linear(9, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(9, 6)],  # it norms other channels
    ],
)
def test_gates_stay_behind_the_layer_where_no_norm_scales_its_channels(parts: list[nn.Module]) -> None:
    torch.manual_seed(1)
    model = Model.from_module(nn.Sequential(*map(shaken, parts), nn.Linear(6, 4)))
    data = [(torch.randn(8, 3, 3, 3), torch.randint(0, 4, (8,)))]
    scope = Scope.of(model, example_inputs=(data[0][0],))
    first = model.layers[:1]
    layer, norm = (activation_taylor(loss, data, b)(scope, first)[first[0].weight] for b in ("layer", "norm"))
    assert torch.equal(layer, norm)
    assert layer.unique().numel() > 1


def test_a_channel_that_the_loss_does_not_see_goes_first() -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    weight = model["1.weight"].clone()
    weight[:, 2] = 0
    model = model.replace({"1.weight": weight})
    data = [(torch.randn(8, 3), torch.randint(0, 2, (8,)))]
    first = {"op_names": ["0"], "sparsity": 0.25}
    for stage in (taylor(loss, data, form="gate"), taylor(loss, data, dependency_aware, form="gate")):
        masks = stage.masks(model, first, example_inputs=(torch.ones(1, 3),))
        assert masks["0.weight"].flatten().tolist() == [True, True, False, True]


def test_the_pruner_uses_the_criterion() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), shaken(nn.BatchNorm2d(6)), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4))
    model, data = Model.from_module(net), [(torch.randn(8, 3, 3, 3), torch.randint(0, 4, (8,)))]
    x, first = (data[0][0],), {"op_names": ["0"], "sparsity": 0.5}
    for behind in ("layer", "norm"):
        scores = activation_taylor(loss, data, behind)(Scope.of(model, example_inputs=x), model.layers[:1])["0.weight"]
        masks = taylor(loss, data, form="gate", behind=behind).masks(model, first, example_inputs=x)
        assert (scores[masks["0.weight"].flatten()].min() > scores[~masks["0.weight"].flatten()].max()).item()
    assert taylor(loss, data, form="gate", behind="norm").needs == {"structure"}
    assert taylor(loss, data, form="gate").needs == taylor(loss, data).needs == frozenset()


DATA = [(torch.ones(2, 3), torch.tensor([0, 1]))]
NET = Model.from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
REFUSED = {
    "a form": (lambda: taylor(loss, DATA, form="gates"), ConfigError, "'weight' or 'gate', got 'gates'"),
    "a place": (lambda: taylor(loss, DATA, form="gate", behind="net"), ConfigError, "'layer' or 'norm', got 'net'"),
    "elements": (lambda: taylor(loss, DATA, form="gate", granularity="element"), ConfigError, "whole channels"),
    "joint": (lambda: taylor(loss, DATA, form="gate", joint=True), ConfigError, "joint"),
    "a place of weights": (lambda: taylor(loss, DATA, behind="norm"), ConfigError, "form='gate'"),
    "an iterator": (lambda: activation_taylor(loss, iter(DATA)), ConfigTypeError, "only once"),
    "no inputs": (lambda: activation_taylor(loss, DATA, "norm")(NET, NET.layers), CompositionError, "example_inputs"),
    "not finite": (
        lambda: activation_taylor(lambda m, b: m(b[0]).sum() / 0, DATA)(NET, NET.layers),
        ScoreError,
        "activation_taylor, batch 0: the loss is",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        make()
