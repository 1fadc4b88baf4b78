"""A description on file changes numbers of the caller's own code and nothing else; whatever does not fit is named."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune import Masks, Model, inputs
from fprune.checkpoint.entry import Entry
from fprune.checkpoint.form import LAYERS, described
from fprune.compose.prune import ensure_structure
from fprune.errors import CheckpointError
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.records import TaskResult
from fprune.store import form as rebuilding
from fprune.store.form import rebuilt
from fprune.structure import Structure, compact, trace
from fprune.tree import same


class Attending(nn.Module):
    """Attention between two layers, a norm, an attribute of every kind that is read, and a size in its code."""

    def __init__(self, literal: bool = False) -> None:
        super().__init__()
        self.first, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.inner = nn.LayerNorm(8), nn.Linear(8, 6)
        self.last = nn.Linear(6, 3, bias=False)
        self.literal, self.sizes = literal, (2, 3)
        self.config = SimpleNamespace(width=6, name="tiny")

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        y = self.inner(x + self.attention(x, x, x)[0]).relu()
        return self.last(y.view(y.shape[0], y.shape[1], 6 if self.literal else self.config.width))


class Smooth(Attending):
    """The same tensors and modules, another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


X = inputs(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)))


def compacted(literal: bool = False) -> tuple[Model, Model, Lineage, Structure]:
    torch.manual_seed(0)
    model = Model.from_module(Attending(literal).eval())
    heads = torch.arange(8) >= 4
    rows = heads.repeat(3)
    kept = torch.tensor([True, False, True, True, True, True])
    wide = torch.arange(8) != 2
    masks = {"attention.in_proj_weight": rows[:, None], "attention.in_proj_bias": rows, "inner.weight": kept[:, None]}
    masks |= {"attention.out_proj.weight": heads[None] & wide[:, None], "attention.out_proj.bias": wide}
    masks |= {"first.weight": wide[:, None], "first.bias": wide, "norm.weight": wide, "norm.bias": wide}
    done = compact(model, Masks(masks), trace(model, X))
    return model, done.model, done.lineage, done.structure


ORIGIN, COMPACT, LINEAGE, STRUCTURE = compacted()
TENSORS = {**COMPACT.params, **COMPACT.buffers}
FORM = described(ORIGIN.skeleton, COMPACT.skeleton)


def read(form: object, tensors: Any = TENSORS, given: Inputs | None = X, origin: Model = ORIGIN) -> nn.Module:
    return rebuilt(origin, Entry(json.loads(json.dumps(form)), "it-000003/manifest.json"), tensors, LINEAGE, given)


def fresh() -> Model:
    torch.manual_seed(9)
    return Model.from_module(Attending())


def edited(path: str, value: object) -> dict[str, Any]:
    """The description with one entry changed, or one more."""
    form: Any = copy.deepcopy(FORM)
    *keys, last = path.split("/")
    found = form
    for key in keys:
        found = found[key]
    found[last] = value
    return form


def test_the_example_has_all_there_is() -> None:
    assert FORM["kind"] == "module" and FORM["added"] == ["last.bias"]
    assert FORM["modules"]["attention"]["class"] == "PrunedMultiheadAttention"
    assert FORM["modules"]["norm"]["class"] == "GhostLayerNorm"
    assert FORM["modules"][""]["attributes"] == {"config": {"width": 5}}


def test_another_instance_becomes_the_compact_model() -> None:
    template, before = fresh(), fresh()
    made = read(FORM, origin=template, given=None)
    model = Model(made, COMPACT.params, COMPACT.buffers, made.training)
    assert same(model, COMPACT) and torch.equal(model(X.args[0]), COMPACT(X.args[0]))
    assert same(template, before), "the template has changed"
    assert template.skeleton.get_submodule("last").weight is not made.get_submodule("last").weight


def test_modes_and_frozen_parameters_come_back() -> None:
    form = {**FORM, "training": True, "apart": ["norm"], "frozen": ["first.bias", "last.bias"]}
    template, before = fresh(), fresh()
    made: Any = read(form, origin=template)
    assert made.training and not made.norm.training and made.attention.training
    assert [name for name, param in made.named_parameters() if not param.requires_grad] == ["first.bias", "last.bias"]
    assert same(template, before), "the template has changed"


def test_a_parameter_whose_shape_is_the_same_is_frozen_in_the_copy_alone() -> None:
    template, before = fresh(), fresh()
    form = {**described(template.skeleton, template.skeleton), "frozen": ["first.weight"]}
    made = read(form, {**template.params, **template.buffers}, origin=template)
    assert not made.get_parameter("first.weight").requires_grad and same(template, before)


def test_a_parameter_that_the_template_freezes_trains_when_the_file_says_so() -> None:
    net = Attending().eval().requires_grad_(False)
    assert all(param.requires_grad for param in read(FORM, origin=Model.from_module(net)).parameters())


def test_layers_replaced_keep_the_hooks_of_the_template() -> None:
    net, seen = Attending().eval(), []
    net.norm.register_forward_hook(lambda *_: seen.append(1))
    made = read(FORM, origin=Model.from_module(net))
    Model(made, COMPACT.params, COMPACT.buffers, False)(X.args[0])
    assert seen == [1] and type(made.get_submodule("norm")).__name__ == "GhostLayerNorm"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kind": (edited("kind", "pickle"), "kind: expected one of 'same', 'module', 'traced'"),
    "module": (edited("modules/none", {"attributes": {}}), "modules.none: the model has no such module"),
    "attribute": (edited("modules/inner/attributes/nope", 3), "modules.inner.attributes.nope: Linear has no such"),
    "method": (edited("modules/inner/attributes/forward", 3), "Linear has no such attribute"),
    "children": (edited("modules/inner/attributes/_modules", {}), "the attribute is a dict"),
    "tensors": (edited("modules/inner/attributes/_parameters", {"weight": 1}), "the attribute is a dict"),
    "other kind": (edited("modules/inner/attributes/out_features", 5.0), "expected int, got float 5.0"),
    "flag": (edited("modules/inner/attributes/out_features", True), "expected int, got bool True"),
    "text": (edited("modules/inner/attributes/out_features", "__import__"), "expected int, got str '__import__'"),
    "sequence": (edited("modules//attributes/sizes", [1]), "sizes: expected what can stand for (2, 3)"),
    "entry": (edited("modules//attributes/sizes", [1, None]), "sizes[1]: expected int, got NoneType None"),
    "field": (edited("modules//attributes/config/nope", 5), "config.nope: SimpleNamespace has no such field"),
    "text field": (edited("modules//attributes/config/name", "x"), "config.name: the attribute is a str"),
    "class": (edited("modules/norm/class", "Linear"), "modules.norm.class: expected one of"),
    "dotted class": (edited("modules/norm/class", "os.system"), "modules.norm.class: expected one of"),
    "wrong place": (edited("modules/inner", FORM["modules"]["norm"]), "no GhostLayerNorm can stand for a Linear"),
    "root": (edited("modules/", FORM["modules"]["norm"]), "no GhostLayerNorm can stand for a Attending"),
    "option": (edited("modules/norm/options/width", "4"), "options.width: expected int, got str '4'"),
    "option more": (edited("modules/norm/options/weight", 4), "unknown 'weight'"),
    "both": (edited("modules/norm/attributes", {}), "unknown 'attributes'"),
    "huge": (edited("modules/attention/options/embed_dim", 2**62), "form"),
    "added": (edited("added", ["first.weight"]), "added: 'first.weight' is no parameter that a layer"),
    "added elsewhere": (edited("added", ["nowhere.bias"]), "added: 'nowhere.bias'"),
    "not added": (edited("added", []), "the model has no 'last.bias'"),
    "apart": (edited("apart", ["nowhere"]), "apart: the model has no 'nowhere'"),
    "frozen": (edited("frozen", ["nowhere"]), "frozen: the model has no 'nowhere'"),
    "code": ({**FORM, "kind": "traced", "style": "graph", "replaced": [], "code": {"": "0"}}, "other code"),
    "style": ({**FORM, "kind": "traced", "style": "auto", "replaced": [], "code": {}}, "style: expected one of"),
    "replaced": ({**FORM, "kind": "traced", "style": "module", "replaced": ["no"], "code": {}}, "no module 'no'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    form, named = WRONG[name]
    template, before = fresh(), fresh()
    with pytest.raises(CheckpointError) as caught:
        read(form, origin=template)
    assert "it-000003/manifest.json" in caught.value.message and caught.value.hint
    assert name == "huge" or named in caught.value.message
    assert same(template, before), "the template has changed"


def test_a_record_that_copies_share_is_not_written_to() -> None:
    class Shared:
        def __init__(self) -> None:
            self.width = 6

        def __deepcopy__(self, memo: Any) -> "Shared":
            return self

    net: Any = Attending().eval()
    net.config = Shared()
    with pytest.raises(CheckpointError, match="only numbers are read from a file"):
        read(FORM, origin=Model.from_module(net))
    assert net.config.width == 6


def test_tensors_have_to_be_those_of_the_model() -> None:
    with pytest.raises(CheckpointError, match=r"the model needs 'inner\.bias'"):
        read(FORM, {name: value for name, value in TENSORS.items() if name != "inner.bias"})
    with pytest.raises(CheckpointError, match="the model has no 'more'"):
        read(FORM, {**TENSORS, "more": torch.zeros(1)})


def test_the_tables_of_layers_agree() -> None:
    assert rebuilding._MAKERS.keys() == rebuilding._STANDS_FOR.keys() == LAYERS.keys()
    assert {option for options in LAYERS.values() for option in options} == rebuilding._KINDS.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a tree of JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_mutated_description_is_read_or_refused(data: st.DataObject) -> None:
    form: Any = copy.deepcopy(FORM)
    for _ in range(data.draw(st.integers(1, 3))):
        *keys, last = data.draw(st.sampled_from([place for place in places(form) if place]))
        found = form
        for key in keys:
            found = found[key]
        if data.draw(st.booleans()):
            del found[last]
        else:
            found[last] = data.draw(JSON)
        if not form:
            break
    try:
        made = read(form, given=None)
    except CheckpointError:
        return
    assert [name for name, _ in made.named_modules()] == [name for name, _ in COMPACT.skeleton.named_modules()]


# --- generated code ---------------------------------------------------------------------------------------------------


def test_generated_code_takes_example_inputs() -> None:
    origin, small, lineage, _ = compacted(literal=True)
    form = Entry(described(origin.skeleton, small.skeleton), "it-000003/manifest.json")
    tensors = {**small.params, **small.buffers}
    torch.manual_seed(9)
    template = Model.from_module(Attending(literal=True))
    with pytest.raises(CheckpointError, match="surgery generated code for the whole model") as caught:
        rebuilt(template, form, tensors, lineage, None)
    assert "example_inputs=(x,)" in caught.value.hint
    made = rebuilt(template, form, tensors, lineage, X)
    assert torch.equal(Model(made, small.params, small.buffers, False)(X.args[0]), small(X.args[0]))
    with pytest.raises(CheckpointError, match="it generates other code"):
        rebuilt(Model.from_module(Smooth(literal=True)), form, tensors, lineage, X)
    with pytest.raises(CheckpointError, match="cannot be repeated on this model"):
        rebuilt(template, form, tensors, lineage, inputs(torch.zeros(2, 5, 3)))


def test_couplings_are_those_of_the_run() -> None:
    """A fresh trace of the compact model would not know how many units there were."""
    state = TaskResult.start(fresh(), 0.5, example_inputs=X).replace(model=COMPACT, lineage=LINEAGE)
    carried = ensure_structure(state).structure
    assert isinstance(carried, Structure) and str(carried) == str(STRUCTURE)
    for found, made in zip(carried.families, STRUCTURE.families, strict=True):
        assert found.labels.tolist() == made.labels.tolist()
    assert [str(node) for node in carried.graph.nodes] == [str(node) for node in STRUCTURE.graph.nodes]
