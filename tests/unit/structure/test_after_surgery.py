"""Compact models are ordinary modules: they train, keep flags, ties and hooks, compile and export."""

import copy
import importlib.util
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, compact, inputs
from fprune.structure import Compacted, Structure, trace
from tests.zoo.case import answer, randomised
from tests.zoo.models import BY_NAME, resnet18

STYLES = ("module", "graph")


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, positions, blocks, a head."""

    def __init__(self, width: int = 24, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def half(model: Model, structure: Structure) -> Masks:
    """The first half of every family, whole units."""
    masks: dict[str, Tensor] = {}
    for family in structure.families:
        for part in family.slices:
            if part.tensor in model:
                shape = model[part.tensor].shape
                kept = torch.ones(shape[part.dim], dtype=torch.bool)
                kept[torch.from_numpy(part.index[: len(family) // 2]).flatten()] = False
                kept = kept.view([-1 if d == part.dim else 1 for d in range(len(shape))])
                masks[part.tensor] = masks[part.tensor] & kept if part.tensor in masks else kept
    return Masks(masks)


def halved(net: nn.Module, given: Any, style: str) -> tuple[Compacted, nn.Module]:
    """The compact model, and the masked one it stands for."""
    model = Model.from_module(net)
    structure = trace(model, given)
    masks = half(model, structure)
    done = compact(model, masks, structure, style=style)
    assert done.report.removed and done.report.style == style
    return done, model.replace(masks.apply(model)).to_module()


def loss(net: nn.Module, given: Any) -> Tensor:
    return sum((x.square().sum() for x in answer(net, given)), torch.zeros(()))


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


CASES = ("resnet18", "mobilenet_v2", "densenet", "layer_norm_mlp", "group_norm", "gated", "tied_linear", "in_place")


def built(name: str) -> tuple[nn.Module, Any]:
    if name == "vit":
        net = randomised(ViT(), seed=0).double().eval()
        return net, (torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)
    return BY_NAME[name].net(), BY_NAME[name].inputs()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [*CASES, "vit"])
def test_gradients_are_the_cut_of_the_dense_ones(name: str, style: str) -> None:
    net, given = built(name)
    done, masked = halved(net, given, style)
    small = done.model.to_module()
    for module in (masked, small):
        loss(module, given).backward()
    expected = done.lineage.slice(gradients(masked))
    assert gradients(small).keys() == expected.keys() & dict(small.named_parameters()).keys()
    size = max(float(gradient.abs().max()) for gradient in expected.values())  # before a norm a bias has none
    for key, gradient in gradients(small).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-8, atol=1e-12 * size)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", [*CASES, "vit"])
def test_a_training_step_in_training_mode(name: str, style: str) -> None:
    net, given = built(name)
    small = halved(net, given, style)[0].model.to_module().train()
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-6)
    before = {key: p.detach().clone() for key, p in small.named_parameters()}
    loss(small, given).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    optimizer.step()
    assert any(not torch.equal(p, before[key]) for key, p in small.named_parameters())


@pytest.mark.parametrize("style", STYLES)
def test_what_is_frozen_stays_frozen(style: str) -> None:
    net, given = built("resnet18")
    for name, param in net.named_parameters():
        param.requires_grad_("conv1" not in name)
    small = halved(net, given, style)[0].model.to_module()
    flags = {name: param.requires_grad for name, param in small.named_parameters()}
    assert flags == {name: "conv1" not in name for name in flags} and len(set(flags.values())) == 2


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fixed, self.free = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.drop, self.rest, self.head = nn.Dropout(0.5), nn.Dropout(0.5), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rest(self.drop(self.free(self.fixed(self.conv(x))))))


@pytest.mark.parametrize("style", STYLES)
def test_each_module_keeps_its_mode(style: str) -> None:
    net, x = randomised(Modes(), seed=0).train(), torch.randn(4, 3, 8, 8)
    for module in (net.fixed, net.drop, net.rest):
        module.eval()
    small = halved(net, x, style)[0].model.to_module()
    flags = {path: module.training for path, module in small.named_modules()}
    assert (flags[""], flags["fixed"], flags["free"], flags["drop"]) == (True, False, True, False)
    means = {name: small.get_buffer(f"{name}.running_mean").clone() for name in ("fixed", "free")}
    assert torch.equal(small(x), small(x)), "no dropout"
    assert torch.equal(small.get_buffer("fixed.running_mean"), means["fixed"])
    assert not torch.equal(small.get_buffer("free.running_mean"), means["free"])
    small.get_submodule("rest").train()
    assert not torch.equal(small(x), small(x)), "dropout"


@pytest.mark.parametrize("style", STYLES)
def test_ties_stay_ties(style: str) -> None:
    net, given = built("tied_autoencoder")
    small = halved(net, given, style)[0].model.to_module()
    shared = [p for p in small.parameters() if p.ndim > 1]
    uses = len({id(p) for p in net.parameters() if p.ndim > 1})
    assert len(shared) == uses


def test_hooks_are_kept_or_listed() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm(self.first(x)))

    net, seen = randomised(Normed(), seed=0), []
    for name in ("first", "norm"):
        net.get_submodule(name).register_forward_hook(lambda module, _, out: seen.append(type(module).__name__))
    x = torch.randn(3, 4)
    done, _ = halved(net, x, "module")
    seen.clear()
    done.model.to_module()(x)
    assert seen == ["Linear", "GhostLayerNorm"] and done.report.hooks == ()
    done, _ = halved(net, x, "graph")
    assert done.report.hooks == ("first: 1 forward hook", "norm: 1 forward hook")
    assert "lost: norm: 1 forward hook" in str(done.report)


def small_vision(name: str, style: str) -> tuple[nn.Module, Tensor]:
    x = torch.randn(2, 3, 16 if name == "vit" else 32, 16 if name == "vit" else 32)
    net = randomised(ViT() if name == "vit" else resnet18(8, 10), seed=0).eval()
    return halved(net, x, style)[0].model.to_module().eval(), x


VISION = pytest.mark.parametrize("name", ["resnet18", "vit"])
BOTH = pytest.mark.parametrize("style", STYLES)


@VISION
@BOTH
def test_torch_export(name: str, style: str) -> None:
    net, x = small_vision(name, style)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


@VISION
@BOTH
def test_torch_compile_sees_one_graph(name: str, style: str) -> None:
    net, x = small_vision(name, style)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager", fullgraph=True)(x), net(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler uses what torch has deprecated
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@VISION
def test_torch_compile_generates_code(name: str) -> None:
    net, x = small_vision(name, "module")
    torch.testing.assert_close(torch.compile(net)(x), net(x), rtol=1e-3, atol=1e-3)


@VISION
@BOTH
def test_onnx_export(name: str, style: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net, x = small_vision(name, style)
    program = torch.onnx.export(net, (x,), dynamo=True)
    if importlib.util.find_spec("onnxruntime"):
        torch.testing.assert_close(program(x)[0], net(x), rtol=1e-3, atol=1e-3)
    assert len(program.model.graph) > 10


@VISION
def test_a_compact_model_copies_and_its_state_loads(name: str) -> None:
    net, x = small_vision(name, "module")
    other = copy.deepcopy(net)
    with torch.no_grad():
        for param in other.parameters():
            param.zero_()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert trace(other, inputs(x)).families
