"""What a recording holds, what it refuses, and what it leaves untouched."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprune import Model, inputs
from fprune.errors import ModelError, StructureError
from fprune.inputs import Inputs
from fprune.structure.graph import Graph, run
from fprune.structure.provenance import TracedInt, attributes, has_literal, solved, trace_attributes
from fprune.structure.record import record
from fprune.structure.trace import trace
from tests.unit.structure.operators import tensors
from tests.zoo.support import snapshot

HERE = __file__


class Written(nn.Module):
    """A forward pass given as a function of the module and the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.written = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.written(self, *args, **kwargs)


def graph_of(net: nn.Module, *args: Any, **kwargs: Any) -> Graph:
    return record(Model.from_module(net), inputs(*args, **kwargs))


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def replayed(net: nn.Module, *args: Any) -> list[Tensor]:
    """The program run on the module's own tensors."""
    model = Model.from_module(net)
    graph = record(model, inputs(*args))
    env = dict(zip(graph.inputs, [a.clone() for a in args], strict=True)) | dict(graph.constants)
    env |= {index: tensors(model)[name].clone() for index, name in graph.tensors.items()}

    def call(node: Any, given: Any, named: Any) -> Any:
        return node.op(*given, **({**named, "device": "cpu"} if "device" in named else named))

    with torch.no_grad():
        run(graph, call, env)
    return [env[index] for index in graph.outputs]


def test_operators_are_recorded_whole() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 2)
    )
    graph = graph_of(net, torch.zeros(1, 3, 5, 5))
    assert names(graph) == ["conv2d", "batch_norm", "gelu", "flatten", "layer_norm", "linear"]
    assert [node.module for node in graph.nodes] == ["0", "1", "2", "3", "4", "5"]
    assert graph.nodes[0].bound["padding"] == [0, 0] and graph.nodes[1].bound["training"] is False


def test_where_a_call_was_made() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.inner(x) + 1

    net = Written(forward, inner=nn.Sequential(nn.Linear(3, 3)))
    graph = graph_of(net, torch.zeros(1, 3))
    linear, add = graph.nodes
    line = inspect.getsourcelines(forward)[1] + 1
    assert (linear.module, add.module) == ("inner.0", "")
    assert linear.site == add.site == f"{HERE}:{line}"
    assert str(add) == f"add in the root module ({HERE}:{line})"


def test_dead_calls_are_dropped() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x)

    graph = graph_of(Written(forward, used=nn.Linear(3, 2), unused=nn.Linear(3, 2)), torch.zeros(1, 3))
    assert names(graph) == ["linear"] and set(graph.tensors.values()) == {"used.weight", "used.bias"}


def test_in_place_calls_rename_what_they_write() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y.relu_()
        return y * y

    net = Written(forward, a=nn.Linear(3, 3))
    graph = graph_of(net, torch.zeros(1, 3))
    assert names(graph) == ["linear", "add", "relu", "mul"]
    linear, add, relu, mul = graph.nodes
    assert add.inputs[0] == linear.out and relu.inputs == (add.out,) and mul.inputs == (relu.out, relu.out)
    x = torch.randn(2, 3)
    assert torch.equal(replayed(net, x)[0], net(x))


def test_a_view_changed_in_place_keeps_the_index_it_picks() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        y[:, 0].mul_(2)
        return self.b(y)

    net = Written(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    structure = trace(Model.from_module(net), inputs(torch.zeros(1, 3)))
    assert [len(family) for family in structure.families] == [7]
    assert "it picks one index of a dimension" in str(structure)
    x = torch.randn(2, 3)
    assert torch.equal(replayed(net, x)[0], net(x))


@pytest.mark.parametrize(
    "branch",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.max().item(),
        lambda x: x[x > 0].sum() + x,
        lambda x: x[: int(x.abs().sum())],
        lambda x: x + len(x.nonzero()),
        lambda x: x if torch.equal(x, x + 1) else -x,
        lambda x: x + x.unique().numel(),
    ],
    ids="if item mask int nonzero equal unique".split(),
)
def test_branches_on_data_are_refused(branch: Callable[[Tensor], Tensor]) -> None:
    net = Written(lambda self, x: branch(self.a(x)), a=nn.Linear(3, 3))
    line = inspect.getsourcelines(branch)[1]
    with pytest.raises(ModelError, match=r"depends on its data|computed from the inputs") as caught:
        graph_of(net, torch.ones(2, 3))
    assert f"{HERE}:" in str(caught.value) and "hint:" in str(caught.value)
    assert int(str(caught.value).split(f"{HERE}:")[1].split()[0]) >= line


def test_a_branch_on_parameters_is_a_constant() -> None:
    net = Written(lambda self, x: self.a(x) * float(self.a.weight.sum() > 0), a=nn.Linear(3, 3))
    assert names(graph_of(net, torch.zeros(1, 3))) == ["linear", "mul"]


def test_constants_made_on_the_way() -> None:
    table = torch.arange(4.0)

    def forward(self: Any, x: Tensor) -> Tensor:
        made = torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.arange(4) + torch.zeros(x.shape[0], 4)
        return self.a(x) + made + table + self.b

    net = Written(forward, a=nn.Linear(3, 4), b=torch.ones(4))
    graph = graph_of(net, torch.zeros(2, 3))
    assert len(graph.constants) in (1, 2) and "b" in graph.tensors.values()
    x = torch.randn(2, 3)
    assert torch.equal(replayed(net, x)[0], net(x))
    zeros = next(node for node in graph.nodes if node.name == "zeros")
    assert zeros.batched["size"] == (True, False)


def test_a_constant_of_the_class_is_kept_by_value() -> None:
    net = Written(lambda self, x: x @ self.held[0], held=None)
    net.held = [torch.eye(3) * 2]
    graph = graph_of(net, torch.zeros(2, 3))
    (value,) = graph.constants.values()
    assert torch.equal(value, torch.eye(3) * 2)


def test_tied_parameters_are_one_value() -> None:
    net = Written(lambda self, x: self.b(self.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    net.b.weight = net.a.weight
    graph = graph_of(net, torch.zeros(1, 3))
    assert sorted(graph.tensors.values()) == ["a.bias", "a.weight", "b.bias"]
    assert graph.nodes[0].bound["weight"] == graph.nodes[1].bound["weight"]


def test_a_module_called_twice() -> None:
    graph = graph_of(Written(lambda self, x: self.a(self.a(x)), a=nn.Linear(3, 3)), torch.zeros(1, 3))
    assert [node.module for node in graph.nodes] == ["a", "a"]
    assert len(graph.tensors) == 2


def test_inputs_and_outputs_in_containers() -> None:
    def forward(self: Any, pair: Any, *, scale: Any) -> Any:
        return {"sum": pair[0] + pair[1]["x"] * scale, "rest": [pair[0].relu(), 3, None]}

    net = Written(forward)
    pair = (torch.zeros(2, 3), {"x": torch.ones(2, 3)})
    graph = graph_of(net, pair, scale=torch.ones(3))
    assert len(graph.inputs) == 3 and len(graph.outputs) == 2
    assert set(graph.returns) == {"sum", "rest"} and graph.returns["rest"][1:] == [3, None]
    assert set(graph.arguments[1]) == {"scale"}


def test_unknown_output_classes_are_refused() -> None:
    class Answer:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    net = Written(lambda self, x: Answer(self.a(x)), a=nn.Linear(3, 3))
    with pytest.raises(StructureError, match=r"Answer.*no output"):
        graph_of(net, torch.zeros(1, 3))
    with pytest.raises(StructureError, match="no tensor"):
        graph_of(Written(lambda self, x: 3), torch.zeros(1, 3))


def test_a_forward_pass_that_fails_says_where() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(ModelError, match=r"fails in '1\.0' on example inputs of shapes \[\(1, 3\)\]"):
        graph_of(net, torch.zeros(1, 3))


def hooks() -> tuple[int, ...]:
    of = nn.modules.module
    return len(of._global_forward_hooks), len(of._global_forward_pre_hooks), len(of._global_forward_hooks_always_called)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_callers_changes(fails: bool) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(5 if fails else 36, 2)
    )
    net.train()
    x = torch.randn(2, 3, 5, 5)
    before, kept, rng, found = snapshot(net), x.clone(), torch.get_rng_state(), hooks()
    model = Model.from_module(net)
    if fails:
        with pytest.raises(ModelError):
            record(model, inputs(x))
    else:
        record(model, inputs(x))
    assert snapshot(net) == before and torch.equal(x, kept)
    assert hooks() == found and torch.equal(torch.get_rng_state(), rng)
    assert not torch.is_inference_mode_enabled()
    assert model.training and all(type(v) is not TracedInt for m in model.skeleton.modules() for v in vars(m).values())


def test_an_in_place_model_leaves_its_example_inputs_alone() -> None:
    net = Written(lambda self, x: self.a(x.mul_(2)) * float(self.a.bias[0]), a=nn.Linear(3, 3))
    x = torch.ones(1, 3)
    structure = trace(Model.from_module(net), inputs(x))
    assert torch.equal(x, torch.ones(1, 3)) and structure.graph.nodes


def test_no_inputs_at_all() -> None:
    graph = record(Model.from_module(Written(lambda self: self.w * 2, w=nn.Parameter(torch.ones(3)))), Inputs())
    assert graph.inputs == () and names(graph) == ["mul"]


def test_training_flags_do_not_matter() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    programs = [graph_of(net.train(mode), torch.zeros(2, 3)) for mode in (True, False)]
    assert names(programs[0]) == names(programs[1])
    assert programs[0].nodes[1].bound["training"] is False


class Sized(nn.Module):
    """Sizes computed from attributes in each way an integer can be."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width, self.shape = 4, 3, (2, 6)
        self.fc = nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).view(len(x), self.heads, self.width).view(-1, self.heads * self.width)
        return y.view(len(x), *self.shape).flatten(1)[:, : 2 * self.width]


def test_sizes_remember_their_attributes() -> None:
    graph = graph_of(Sized(), torch.zeros(2, 5))
    views = [node.sources.get("size") for node in graph.nodes if node.name == "view"]
    heads, width = ("", "heads", -1), ("", "width", -1)
    assert views[0] == (None, heads, width)
    assert views[1] == (None, ("*", heads, width))
    assert views[2] is not None and views[2][-1] == ("", "shape", 1)


def test_traced_integers_are_integers() -> None:
    n = TracedInt(6, ("m", "n", -1))
    results = [n + 1, 1 + n, n - 1, 9 - n, n * 2, 2 * n, n // 2, 13 // n]
    assert [int(r) for r in results] == [7, 7, 5, 3, 12, 12, 3, 2]
    assert all(type(r) is TracedInt for r in results)
    assert n / 2 == 3.0 and type(n / 2) is float and type(n * 1.5) is float and n == 6 and hash(n) == hash(6)
    assert (n + 1).expression == ("+", ("m", "n", -1), 1)
    assert range(n)[-1] == 5 and [0] * n == [0] * 6


def test_only_the_users_own_attributes_are_traced() -> None:
    net = Sized()
    trace_attributes(net)
    assert type(net.heads) is TracedInt and type(net.shape[1]) is TracedInt
    assert type(net.fc.in_features) is int


def test_expressions_are_solved_for_attributes() -> None:
    heads, width = ("", "heads", -1), ("", "width", -1)
    old = {heads: 4, width: 3}
    assert solved([(heads, 2), (("*", heads, width), 6)], old) == {heads: 2, width: 3}
    assert solved([(("//", heads, 2), 1)], old) == {heads: 2}
    assert solved([(("*", heads, 5), 7)], old) == {}
    with pytest.raises(StructureError, match="heads would have to be both 2 and 3"):
        solved([(heads, 2), (heads, 3)], old)
    assert attributes(("*", heads, ("+", heads, width))) == [heads, width]
    assert has_literal(("*", heads, 2)) and not has_literal(("*", heads, width))


def test_functional_dropout_in_eval_mode() -> None:
    net = Written(lambda self, x: F.dropout(x, 0.5, self.training))
    assert graph_of(net, torch.zeros(1, 3)).nodes[0].bound["train"] is False
