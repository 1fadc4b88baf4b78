"""What turns one skeleton into another is found by comparison, told as data, and refused when it is more than data."""

import inspect
import json
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fprune import Masks, Model, inputs
from fprune.checkpoint.form import LAYERS, described, modes
from fprune.errors import CheckpointError
from fprune.structure import compact, ghost, trace
from fprune.structure.attention import PrunedMultiheadAttention


class Net(nn.Module):
    """Every kind of attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.heads, self.share, self.flag, self.sizes, self.steps = 4, 0.5, True, (2, 3), [1, 2]
        self.config = SimpleNamespace(width=4, name="tiny", inner=SimpleNamespace(depth=2))
        self.table, self.word, self.nothing = {"a": 1}, "mean", None

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


def skeleton(net: nn.Module) -> nn.Module:
    return Model.from_module(net).skeleton


def changed(change: Callable[[Any], object]) -> tuple[nn.Module, nn.Module]:
    net = Net()
    before = skeleton(net)
    change(net)
    return before, skeleton(net)


def setting(path: str, value: Any) -> Callable[[Any], object]:
    def change(net: Any) -> None:
        *owners, leaf = path.split(".")
        for owner in owners:
            net = getattr(net, owner)
        setattr(net, leaf, value)

    return change


NUMBERS: dict[str, tuple[Callable[[Any], object], dict[str, Any]]] = {
    "int": (setting("heads", 3), {"heads": 3}),
    "float": (setting("share", 0.25), {"share": 0.25}),
    "bool": (setting("flag", False), {"flag": False}),
    "tuple": (setting("sizes", (2, 2)), {"sizes": [2, 2]}),
    "list": (setting("steps", [1, 5]), {"steps": [1, 5]}),
    "field": (setting("config.width", 3), {"config": {"width": 3}}),
    "field of a field": (setting("config.inner.depth", 1), {"config": {"inner": {"depth": 1}}}),
    "two": (lambda net: (setting("heads", 2)(net), setting("flag", False)(net)), {"flag": False, "heads": 2}),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_told(name: str) -> None:
    change, expected = NUMBERS[name]
    form = described(*changed(change))
    assert form["kind"] == "module" and form["modules"] == {"": {"attributes": expected}} and form["added"] == []
    assert json.loads(json.dumps(form, allow_nan=False)) == form


def test_a_number_of_a_submodule_stands_under_its_path() -> None:
    form = described(*changed(setting("layer.out_features", 3)))
    assert form["modules"] == {"layer": {"attributes": {"out_features": 3}}}


def test_nothing_changed() -> None:
    form = described(skeleton(Net()), skeleton(Net()))
    assert form == {"kind": "same", "training": True, "apart": [], "frozen": []}


def test_a_parameter_more() -> None:
    form = described(*changed(lambda net: net.layer.register_parameter("bias", nn.Parameter(torch.zeros(4)))))
    assert form["kind"] == "module" and form["added"] == ["layer.bias"] and form["modules"] == {}


def test_a_smaller_tensor_alone_is_not_the_same() -> None:
    form = described(*changed(setting("layer.weight", nn.Parameter(torch.zeros(3, 4)))))
    assert form["kind"] == "module" and form["modules"] == {}


def test_modes_are_those_of_each_module_and_parameter() -> None:
    net = Net().eval()
    net.norm.train()
    net.layer.weight.requires_grad_(False)
    assert modes(net) == {"training": False, "apart": ["norm"], "frozen": ["layer.weight"]}
    assert described(skeleton(Net()), skeleton(net)) == {"kind": "same", **modes(net)}


OPAQUE: dict[str, tuple[Callable[[Any], object], str]] = {
    "a text": (setting("word", "sum"), "'word'"),
    "another type": (setting("heads", 4.0), "'heads'"),
    "bool for int": (setting("heads", True), "'heads'"),
    "not finite": (setting("share", float("nan")), "'share'"),
    "a longer list": (setting("steps", [1, 2, 3]), "'steps'"),
    "a list of other things": (setting("steps", [1, "2"]), "'steps'"),
    "a dict": (setting("table", {"a": 2}), "'table'"),
    "a new attribute": (setting("extra", 1), "'extra' is new"),
    "an attribute gone": (lambda net: delattr(net, "heads"), "'heads' is gone"),
    "a text in a field": (setting("config.name", "big"), "'config'"),
    "a field more": (setting("config.other", 1), "'config'"),
    "something for nothing": (setting("nothing", 1), "'nothing'"),
    "a module more": (lambda net: net.add_module("more", nn.ReLU()), "more: the model has other modules"),
    "another class": (setting("norm", nn.Identity()), "norm: it was a LayerNorm and is a Identity"),
    "a hook": (lambda net: net.layer.register_forward_hook(lambda *_: None), "layer: the attribute '_forward_hooks'"),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_is_more_than_numbers_is_refused_by_name(name: str) -> None:
    change, named = OPAQUE[name]
    with pytest.raises(CheckpointError) as caught:
        described(*changed(change))
    assert named in caught.value.message and "without keeping code" in caught.value.message and caught.value.hint


def test_a_class_of_the_same_name_is_another_class() -> None:
    class GhostLayerNorm(nn.Module):
        width, eps = 4, 1e-5

    with pytest.raises(CheckpointError, match="norm: it was a LayerNorm and is a GhostLayerNorm"):
        described(*changed(setting("norm", GhostLayerNorm())))


def test_equal_values_that_are_other_objects_are_the_same() -> None:
    one, two = Net(), Net()
    one.table, two.table = OrderedDict(a=1), OrderedDict(a=1)
    one.config.name = two.config.name = "".join(["ti", "ny"])
    assert described(skeleton(one), skeleton(two))["kind"] == "same"


def test_a_record_that_holds_itself() -> None:
    one, two = Net(), Net()
    for net in (one, two):
        net.config.inner.around = net.config
    two.config.width = 2
    form = described(skeleton(one), skeleton(two))
    assert form["modules"] == {"": {"attributes": {"config": {"width": 2}}}}


def test_the_layers_of_the_table_are_made_of_their_numbers() -> None:
    kinds = {"PrunedMultiheadAttention": PrunedMultiheadAttention} | {
        name: getattr(ghost, name) for name in LAYERS if name.startswith("Ghost")
    }
    assert kinds.keys() == LAYERS.keys()
    for name, options in LAYERS.items():
        taken = inspect.signature(kinds[name]).parameters
        assert {*options} == taken.keys() - {"bias", "weight"}, name


def test_a_layer_that_took_the_place_of_another() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    model = Model.from_module(net)
    kept = torch.tensor([True, False, True, True])
    masks = Masks({"0.weight": kept[:, None], "0.bias": kept, "1.weight": kept, "1.bias": kept, "2.weight": kept[None]})
    done = compact(model, masks, trace(model, inputs(torch.ones(2, 3))))
    form = described(model.skeleton, done.model.skeleton)
    assert form["modules"] == {
        "0": {"attributes": {"out_features": 3}},
        "1": {"class": "GhostLayerNorm", "options": {"width": 4, "eps": 1e-5}},
        "2": {"attributes": {"in_features": 3}},
    }
