"""The smaller model: its styles, its modules, and the refusal to hand out one that computes something else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fprune import Config, Masks, Model, compact, dependency_aware, inputs, l1
from fprune.errors import ConfigTypeError, StructureError
from fprune.structure import trace, verify
from fprune.structure.capture import Recording
from fprune.structure.flow import RULES
from fprune.structure.ghost import GhostGroupNorm, GhostLayerNorm, GhostRMSNorm
from fprune.structure.graph import Node
from fprune.structure.rewrite import REWRITES
from tests.unit.structure.test_decide import kept, rows
from tests.unit.toys import Written


def prepared(net: nn.Module, x: Tensor, sparsity: float = 0.5, **rule: Any) -> tuple[Model, Masks, Any]:
    """Dependency-aware masks over what the rule selects, and the structure."""
    torch.manual_seed(0)
    model = Model.from_module(net.double().eval())
    structure = trace(model, inputs(x))
    rules = [{"sparsity": sparsity, **rule}] if rule else [{"sparsity": sparsity}]
    masks = l1(dependency_aware).masks(model, Config.of(rules), example_inputs=inputs(x), structure=structure)
    return model, masks, structure


def exact(net: nn.Module, x: Tensor, style: str = "auto", sparsity: float = 0.5, **rule: Any) -> Any:
    model, masks, structure = prepared(net, x, sparsity, **rule)
    done = compact(model, masks, structure, style=style)
    masked = model.replace(masks.apply(model))
    generator = torch.Generator().manual_seed(5)
    for batch in (1, 2, 5):
        other = torch.randn(batch, *x.shape[1:], generator=generator, dtype=torch.float64)
        assert max(verify(masked, done.model, inputs(other))) < 1e-12
    return done


class Literal(nn.Module):
    """Sizes written into the code: the class cannot hold fewer channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.drop, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn(self.a(x))), 2)
        return self.b(self.drop(x.view(x.shape[0], 32)))


class Heads(nn.Module):
    """Sizes computed from attributes."""

    def __init__(self, heads: int = 4, width: int = 3) -> None:
        super().__init__()
        self.heads, self.width, self.total = heads, width, heads * width
        self.a, self.b = nn.Linear(6, heads * width), nn.Linear(heads * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).view(x.shape[0], self.heads, self.width)
        return self.b(torch.tanh(y).reshape(-1, self.total))


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VECTOR = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def test_the_class_first_then_a_graph() -> None:
    done = exact(small(), VECTOR)
    assert done.report.style == "module" and type(done.model.to_module()) is nn.Sequential
    done = exact(Literal(), IMAGE)
    assert done.report.style == "graph" and isinstance(done.model.to_module(), fx.GraphModule)


def test_a_style_is_kept_to() -> None:
    done = exact(small(), VECTOR, style="graph")
    assert done.report.style == "graph" and isinstance(done.model.to_module(), fx.GraphModule)
    assert set(done.model) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with pytest.raises(StructureError, match=r"would not compute the same.*style 'module'") as caught:
        exact(Literal(), IMAGE, style="module")
    assert "style 'graph'" not in str(caught.value) and "hint:" in str(caught.value)


def test_unknown_styles_are_refused() -> None:
    model, masks, structure = prepared(small(), VECTOR)
    with pytest.raises(StructureError, match="style='class': expected 'auto', 'module' or 'graph'"):
        compact(model, masks, structure, style="class")


def test_graph_style_takes_any_batch_and_both_modes() -> None:
    done = exact(Literal(), IMAGE, style="graph")
    net = done.model.to_module().train()
    assert net(torch.randn(7, 3, 6, 6, dtype=torch.float64)).shape == (7, 2)
    before = net.get_buffer("bn.running_mean").clone()
    first, second = net(IMAGE), net(IMAGE)
    assert not torch.equal(first, second), "dropout is at work"
    assert not torch.equal(net.get_buffer("bn.running_mean"), before), "statistics are collected"
    net.eval()
    kept_mean = net.get_buffer("bn.running_mean").clone()
    assert torch.equal(net(IMAGE), net(IMAGE)) and torch.equal(net.get_buffer("bn.running_mean"), kept_mean)


def test_graph_style_follows_the_models_mode() -> None:
    net = Literal()
    model, masks, structure = prepared(net, IMAGE)
    done = compact(model.train(), masks, structure, style="graph")
    assert done.model.training and done.model.to_module().training


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.Dropout1d])
def test_graph_style_trains_with_every_random_layer(layer: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(6, 8), layer(), nn.Linear(8, 2))
    net = exact(net, VECTOR, style="graph", op_names=["0"]).model.to_module().train()
    torch.manual_seed(0)
    assert not torch.equal(net(VECTOR), net(VECTOR))
    assert torch.equal(net.eval()(VECTOR), net(VECTOR))


def test_attributes_behind_sizes_are_patched() -> None:
    done = exact(Heads(), VECTOR, op_names=["a"])
    net = done.model.to_module()
    assert done.report.style == "module" and isinstance(net, Heads)
    assert net.heads * net.width == net.total == net.a.out_features == 6
    assert type(net.heads) is int


def test_an_attribute_that_would_need_two_values() -> None:
    """One width for two layers that lose different amounts: the class cannot hold it, a graph can."""

    class OneWidth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n = 8
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x).view(-1, self.n), self.b(x).view(-1, self.n)
            return self.c(a).relu() + b.sum(1, keepdim=True)

    model = Model.from_module(OneWidth().double())
    structure = trace(model, inputs(VECTOR))
    masks = Masks({f"{n}.{k}": m for n, g in (("a", (1, 2)), ("b", (3,))) for k, m in _unit(8, *g).items()})
    with pytest.raises(StructureError, match=r"view in the root module .* spells out a size that changes"):
        compact(model, masks, structure, style="module")
    assert compact(model, masks, structure).report.style == "graph"


def _unit(n: int, *gone: int) -> dict[str, Tensor]:
    return {"weight": rows(n, *gone, ndim=2), "bias": kept(n, *gone)}


def test_a_module_that_would_need_two_sizes() -> None:
    """A norm without parameters, called on two widths."""
    net = Written(
        lambda self, x: self.c(self.n(self.a(x))) + self.d(self.n(self.b(x))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 2, 1),
        d=nn.Conv2d(8, 2, 1),
        n=nn.GroupNorm(4, 8, affine=False),
    )
    model = Model.from_module(net.double())
    structure = trace(model, inputs(IMAGE))
    masks = Masks({"c.weight": kept(8, 0, 1).view(1, -1, 1, 1)})
    with pytest.raises(StructureError, match="n: called several times with different sizes"):
        compact(model, masks, structure, style="module")
    assert dict(compact(model, masks, structure).report.removed) == {"a.weight": 1}


NORMS = {
    "layer": (lambda: nn.LayerNorm(8), GhostLayerNorm),
    "layer, plain": (lambda: nn.LayerNorm(8, elementwise_affine=False), GhostLayerNorm),
    "rms": (lambda: nn.RMSNorm(8, eps=1e-3), GhostRMSNorm),
    "rms, own eps": (lambda: nn.RMSNorm(8), GhostRMSNorm),
    "group": (lambda: nn.Sequential(nn.Unflatten(1, (8, 1)), nn.GroupNorm(1, 8), nn.Flatten()), GhostGroupNorm),
}


@pytest.mark.parametrize("style", ["module", "graph"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_over_removed_channels_keep_their_statistics(name: str, style: str) -> None:
    make, ghost = NORMS[name]
    net = nn.Sequential(nn.Linear(6, 8), make(), nn.Linear(8, 2))
    done = exact(net, VECTOR, style=style, op_names=["0"])
    assert done.model["0.weight"].shape[0] == 4
    found = [m for m in done.model.to_module().modules() if isinstance(m, ghost)]
    assert [m.width for m in found] == ([8] if style == "module" else [])
    if found:
        assert "width=8" in repr(found[0])


@pytest.mark.parametrize("style", ["module", "graph"])
def test_a_ghost_of_a_ghost_remembers_the_first_width(style: str) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    model, masks, structure = prepared(net, VECTOR, 0.25, op_names=["0"])
    done = compact(model, masks, structure, style=style)
    unit = {"0.weight": rows(6, 0, 5, ndim=2), "0.bias": kept(6, 0, 5)}
    unit |= {"1.weight": kept(6, 0, 5), "1.bias": kept(6, 0, 5), "2.weight": kept(6, 0, 5).view(1, -1)}
    again = compact(done.model, Masks(unit), done.structure, style=style)
    norms = [m for m in again.model.to_module().modules() if isinstance(m, GhostLayerNorm)]
    assert [m.width for m in norms] == ([8] if style == "module" else [])
    assert again.model["0.weight"].shape[0] == 4
    masked = done.model.replace(Masks(unit).apply(done.model))
    assert max(verify(masked, again.model, inputs(2 * VECTOR))) < 1e-12


def test_a_mean_over_removed_channels_keeps_its_divisor() -> None:
    net = Written(lambda self, x: self.a(x).mean(1) + self.a(x).mean(), a=nn.Linear(6, 8))
    assert exact(net, VECTOR, op_names=["a"]).model["a.weight"].shape[0] == 4


@pytest.mark.parametrize("n", [7, 4])
def test_squeezing_what_pruning_made_one_wide(n: int) -> None:
    net = Written(
        lambda self, x: self.b(self.a(x).amax((2, 3), keepdim=True).squeeze()), a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 2)
    )
    model = Model.from_module(net.double())
    unit = kept(8, *range(n))
    masks = Masks({"a.weight": unit.view(-1, 1, 1, 1), "a.bias": unit})
    done = compact(model, masks, trace(model, inputs(IMAGE)))
    assert done.model["a.weight"].shape[0] == 8 - n and done.report.style == ("graph" if n == 7 else "module")


def test_the_report_and_the_masks_that_are_left() -> None:
    model, _, structure = prepared(small(), VECTOR)
    unit = {
        "0.weight": rows(8, 1, 2, ndim=2).expand(8, 6).clone(),
        "0.bias": kept(8, 1, 2),
        "2.weight": kept(8, 1, 2).view(1, -1),
    }
    unit["0.weight"][5, :3] = False
    done = compact(model, Masks(unit), structure)
    assert dict(done.masks)["0.weight"].shape == (6, 6) and set(done.masks) == {"0.weight"}
    assert int((~done.masks["0.weight"]).sum()) == 3
    assert done.lineage.masks == Masks(unit)
    assert "2 units removed, style module" in str(done.report) and "<table" in done.report._repr_html_()
    assert done.lineage.kept["0.bias"][0].tolist() == [0, 3, 4, 5, 6, 7]
    assert torch.equal(done.model["0.bias"], model["0.bias"].detach()[[0, 3, 4, 5, 6, 7]])


def test_nothing_to_remove() -> None:
    model, _, structure = prepared(small(), VECTOR)
    done = compact(model, Masks(), structure)
    assert done.report.style == "unchanged" and done.lineage.is_identity and done.model == model
    assert done.structure is structure


def wrong_cat(flow: Any, node: Node, tensors: list[Any], dim: int = 0) -> Any:
    return RIGHT["cat"](flow, node, tensors[::-1], dim)


def wrong_split(flow: Any, node: Node, self: Any, dim: int = 0, **rest: Any) -> Any:
    made = RIGHT["split"](flow, node, self, dim, **rest)
    return made[::-1]


def wrong_relu(flow: Any, node: Node, self: Any) -> Any:
    x = flow.dims(self)
    return [x[0], x[1][::-1], *x[2:]]


def wrong_batch_norm(flow: Any, node: Node, input: Any, **rest: Any) -> Any:
    return flow.dims(input)


def wrong_slice(cut: Any, node: Node, **bound: Any) -> Node:
    made = REWRITES_RIGHT["slice"](cut, node, **bound)
    return (
        made
        if made is node
        else REWRITES_RIGHT["slice"](cut, node, **{**bound, "start": bound["start"] + 1, "end": bound["end"]})
    )


RIGHT, REWRITES_RIGHT = dict(RULES), dict(REWRITES)
FALSE = {
    "cat": (RULES, wrong_cat, lambda self, x: self.c(torch.cat([self.a(x), self.b(x)], 1))),
    "relu": (RULES, wrong_relu, lambda self, x: self.c(torch.cat([self.a(x).relu(), self.b(x)], 1))),
    "batch_norm": (RULES, wrong_batch_norm, lambda self, x: self.c(torch.cat([self.n(self.a(x)), self.b(x)], 1))),
    "slice": (
        REWRITES,
        wrong_slice,
        lambda self, x: self.c(torch.cat([self.a(x)[:, 1:8], self.a(x)[:, 0:1], self.b(x)], 1)),
    ),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_wrong_rule_never_gives_a_wrong_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is given a false rule: it refuses, and says at which call the programs part."""
    table, false, forward = FALSE[name]
    net = Written(forward, a=nn.Linear(6, 8), b=nn.Linear(6, 8), c=nn.Linear(16, 2), n=nn.BatchNorm1d(8))
    net.n.running_mean.uniform_()
    model = Model.from_module(net.double().eval())
    masks = Masks({"a.weight": rows(8, 0, 1, 2, ndim=2), "a.bias": kept(8, 0, 1, 2)})
    if name == "batch_norm":
        masks = Masks({**masks, "n.weight": kept(8, 0, 1, 2), "n.bias": kept(8, 0, 1, 2)})
    assert compact(model, masks, trace(model, inputs(VECTOR))).report.style == "module"
    monkeypatch.setitem(table, name, false)
    refused_or_exact(model, masks)
    if name in ("slice", "batch_norm"):
        with pytest.raises(StructureError):
            compact(model, masks, trace(model, inputs(VECTOR)), style="graph")


def refused_or_exact(model: Model, masks: Masks) -> None:
    """A false rule may keep what could go; what it lets go is found out."""
    masked, told = model.replace(masks.apply(model)), []
    for style in ("module", "graph", "auto"):
        try:
            done = compact(model, masks, trace(model, inputs(VECTOR)), style=style)
        except StructureError as error:
            told.append(error.message)
        else:
            assert max(verify(masked, done.model, inputs(3 * VECTOR.flip(0)))) < 1e-12
    assert all("would not compute the same" in text and "first difference: " in text for text in told)


def test_a_wrong_order_of_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        a, b = self.a(x).split(4, 1)
        return self.b(a) + self.c(torch.tanh(b))

    net = Written(forward, a=nn.Linear(6, 8), b=nn.Linear(4, 2), c=nn.Linear(4, 2))
    model = Model.from_module(net.double())
    masks = Masks({"a.weight": rows(8, 0, ndim=2), "a.bias": kept(8, 0)})
    monkeypatch.setitem(RULES, "split", wrong_split)
    refused_or_exact(model, masks)


def test_the_class_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that computes something else with fewer channels is not taken, even if it runs."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) / float(self.a.weight.shape[0])

    done = exact(Counting(), VECTOR, op_names=["a"])
    assert done.report.style == "graph"
    with pytest.raises(StructureError, match="outputs differ by"):
        exact(Counting(), VECTOR, style="module", op_names=["a"])


def test_the_structure_needs_no_second_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks, structure = prepared(small(), VECTOR)
    monkeypatch.setattr(Recording, "run", lambda *_: pytest.fail("recorded again"))
    done = compact(model, masks, structure)
    assert done.structure.graph.shapes[done.structure.graph.nodes[0].out] == (2, 4)
    assert done.structure.families[0].original == 8 and len(done.structure.families[0]) == 4


def test_arguments_of_another_kind_are_refused_by_name() -> None:
    net, x = nn.Linear(2, 2), torch.ones(1, 2)
    model, masks = Model.from_module(net), Masks({})
    for given, message in (
        ((net, masks, trace(net, x)), r"model: expected Model, got Linear\nhint: .*from_module"),
        ((model, trace(net, x), masks), r"masks: expected Masks, got Structure"),
        ((model, masks, x), r"structure: expected Structure, got Tensor\nhint: .*trace\(model, x\)"),
    ):
        with pytest.raises(ConfigTypeError, match=message):
            compact(*given)  # type: ignore[arg-type]
