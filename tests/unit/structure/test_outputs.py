"""Outputs that matter: what is left out freezes nothing, what is picked is compared, in every form of the model."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fprune import Masks, Model, dependency_aware, inputs, l1, one_shot, speed_up
from fprune.errors import ConfigError
from fprune.inputs import Inputs
from fprune.structure import compact, trace, verify
from fprune.structure.outputs import leaves
from fprune.structure.verify import Reference, agree

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()
KEPT = torch.tensor([True, False, True, True, False, True, False, True])


@dataclass
class Answer(OrderedDict[str, Any]):
    """As model libraries write it: a dict and a data class at once, registered with torch's pytree."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        self.update({"logits": self.logits, "hidden": self.hidden})


pytree.register_pytree_node(Answer, lambda x: ([x.logits, x.hidden], None), lambda x, _: Answer(*x))

FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, hidden: (None, hidden, "text", logits),
    "dict": lambda logits, hidden: {"logits": logits, "hidden": hidden},
    "OrderedDict": lambda logits, hidden: OrderedDict(hidden=hidden, logits=logits),
    "Answer": Answer,
    "nested": lambda logits, hidden: [{"all": (hidden, hidden)}, Answer(logits, None)],
}
LOGITS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda out: out[3],
    "dict": lambda out: out["logits"],
    "OrderedDict": lambda out: out["logits"],
    "Answer": lambda out: out.logits,
    "nested": lambda out: out[1].logits,
}


class Side(nn.Module):
    """A residual stream that is returned on the side."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        hidden = self.stem(x)
        hidden = hidden + self.body(hidden.relu())
        return FORMS[self.form](self.head(hidden), hidden)


def side(form: str = "dict") -> Model:
    torch.manual_seed(0)
    return Model.from_module(Side(form).double())


def stream() -> Masks:
    """Five of the eight channels of the residual stream, whole."""
    rows = {"stem.weight": KEPT[:, None], "stem.bias": KEPT, "body.bias": KEPT}
    return Masks({**rows, "body.weight": KEPT[:, None] & KEPT, "head.weight": KEPT[None]})


@pytest.mark.parametrize("form", FORMS)
def test_by_default_everything_returned_is_preserved(form: str) -> None:
    assert trace(side(form), X).family_of("stem.weight") == ()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out_freezes_nothing(form: str) -> None:
    (family,) = trace(side(form), X, outputs=LOGITS[form]).families
    assert (family.name, len(family)) == ("body.weight", 8)
    assert family.parameters == ("body.bias", "body.weight", "head.weight", "stem.bias", "stem.weight")


@pytest.mark.parametrize("style", ["module", "graph"])
@pytest.mark.parametrize("form", FORMS)
def test_exact_and_in_the_container_of_the_model(form: str, style: str) -> None:
    model = side(form)
    done = compact(model, stream(), trace(model, X, outputs=LOGITS[form]), style=style)
    assert (done.report.style, dict(done.report.removed), dict(done.report.refused)) == (style, {"body.weight": 3}, {})
    masked, smaller = model.replace(stream().apply(model))(X), done.model(X)
    assert type(smaller) is type(masked)
    torch.testing.assert_close(LOGITS[form](smaller), LOGITS[form](masked), rtol=1e-12, atol=1e-12)
    hidden = [(a, b) for a, b in zip(leaves(masked), leaves(smaller), strict=True) if a.shape[1] == 8]
    assert hidden  # what is left out is the masked model's, restricted to what is kept
    for before, after in hidden:
        torch.testing.assert_close(after, before[:, KEPT], rtol=1e-12, atol=1e-12)


def test_what_is_picked_is_compared_and_the_rest_is_not() -> None:
    model = side()
    structure = trace(model, X, outputs=LOGITS["dict"])
    reference = Reference(model, structure)
    assert [tuple(x.shape) for x in reference.example.outputs] == [(3, 4)]
    head = model.replace({"head.bias": model["head.bias"] + 1})
    assert agree(model, reference, {}).ok and not agree(head, reference, {}).ok
    order = torch.arange(7, -1, -1)  # channels in another order: other hidden states, equal logits
    turned = {"stem.weight": model["stem.weight"][order], "stem.bias": model["stem.bias"][order]}
    turned |= {"body.weight": model["body.weight"][order][:, order], "body.bias": model["body.bias"][order]}
    other = model.replace({**turned, "head.weight": model["head.weight"][:, order]})
    assert agree(other, reference, {}).ok
    assert not agree(other, Reference(model, trace(model, X)), {}).ok
    assert len(verify(model, other, inputs(X))) == 2
    assert verify(model, other, inputs(X, outputs=LOGITS["dict"])) < (1e-12,)


class Table(nn.Module):
    """Returns a tensor of its own that takes no part, before the others; and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.stem, self.head = torch.arange(3.0), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        hidden = self.stem(x)
        return self.table, hidden, self.head(hidden), hidden


@pytest.mark.parametrize("style", ["module", "graph"])
def test_positions_count_every_tensor_that_is_returned(style: str) -> None:
    model = Model.from_module(Table())
    x = X.float()
    structure = trace(model, inputs(x, outputs=lambda out: out[2]))
    assert (structure.graph.preserved, len(structure.graph.outputs)) == ((2,), 4)
    masks = Masks({"stem.weight": KEPT[:, None], "stem.bias": KEPT})
    done = compact(model, masks, structure, style=style)
    assert [tuple(out.shape) for out in done.model(x)] == [(3,), (3, 5), (3, 4), (3, 5)]
    assert trace(model, inputs(x, outputs=lambda out: out[1])).graph.preserved == (1, 3)


@pytest.mark.parametrize(
    ("select", "found", "hint"),
    [
        (lambda out: None, "gives no tensor", "a dict of logits, hidden"),
        (lambda out: (), "gives no tensor", "a dict of logits, hidden"),
        (lambda out: out["logits"][:, 0], "gives a tensor that the forward pass does not return", "whole outputs"),
        (lambda out: (out["logits"], X), "gives a tensor that the forward pass does not return", "whole outputs"),
        (lambda out: out["logit"], "fails .* KeyError: 'logit'", "a dict of logits, hidden"),
        (lambda out: out.logits, "fails .* AttributeError", "a dict of logits, hidden"),
    ],
)
def test_a_selector_that_picks_no_output_is_refused(select: Callable[[Any], Any], found: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"outputs: the function {found}") as caught:
        trace(side(), X, outputs=select)
    assert hint in caught.value.hint
    with pytest.raises(ConfigError, match=f"outputs: the function {found}"):
        verify(side(), side(), inputs(X, outputs=select))


@pytest.mark.parametrize(("form", "told"), [("tuple", "a tuple with 2 tensors"), ("Answer", "an Answer of logits")])
def test_the_refusal_tells_what_there_is(form: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trace(side(form), X, outputs=lambda out: None)
    assert told.removeprefix("an ").removeprefix("a ") in caught.value.hint


class Named(nn.Module):
    """A forward that has an argument of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stem(x + outputs)
        return self.head(hidden), hidden


def test_a_forward_may_have_an_argument_called_outputs() -> None:
    net = Named().double()
    assert trace(net, {"x": X, "outputs": X}).units == 0
    given = Inputs((X,), {"outputs": X}, outputs=lambda out: out[0])
    assert trace(net, given).units == trace(net, Inputs((X,), {"outputs": X}), outputs=lambda out: out[0]).units == 8
    assert given.call(lambda x, outputs: outputs.shape) == (3, 6)


def test_the_keyword_of_trace_goes_before_that_of_the_inputs() -> None:
    given = inputs(X, outputs=lambda out: out["hidden"])
    assert trace(side(), given).units == 0
    assert trace(side(), given, outputs=lambda out: out["logits"]).units == 8


@pytest.mark.parametrize("form", ["dict", "Answer"])
def test_a_run_takes_it_with_the_example_inputs(form: str) -> None:
    pipeline = one_shot() | l1(dependency_aware) | speed_up(style="graph")
    given = inputs(X, outputs=LOGITS[form])
    result = pipeline.run(Side(form).double(), [{"op_names": ["stem"], "sparsity": 0.5}], example_inputs=given)
    assert result.model["stem.weight"].shape == (4, 6)
    assert LOGITS[form](result.module()(X)).shape == (3, 4)
