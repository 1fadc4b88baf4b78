"""What a recording holds, what it refuses, and what it leaves untouched."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprune import Masks, Model, inputs
from fprune.errors import ModelError, StructureError
from fprune.inputs import Inputs
from fprune.structure.compact import compact
from fprune.structure.expressions import Attribute, Combined, Size
from fprune.structure.graph import Graph, Ref, run
from fprune.structure.provenance import TracedInt, sources, trace_attributes
from fprune.structure.record import record
from fprune.structure.trace import trace
from tests.unit.structure.operators import tensors
from tests.unit.toys import Written
from tests.zoo.support import snapshot

HERE = __file__


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
def test_data_that_is_read_is_on_record(branch: Callable[[Tensor], Tensor]) -> None:
    net = Written(lambda self, x: branch(self.a(x)), a=nn.Linear(3, 3))
    first = inspect.getsourcelines(branch)[1]
    reads = graph_of(net, torch.ones(2, 3)).reads
    assert reads and all(f"{HERE}:" in read.site and int(read.site.split(":")[-1]) >= first for read in reads)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.b(self.a(x) + x.sum().item()),
        lambda self, x: self.b(self.a(x) * x.amax().item()),
        lambda self, x: self.b(self.a(x) + len(x.nonzero())),
        lambda self, x: self.b(self.a(x) + x[x > 0].shape[0]),
        lambda self, x: self.b(self.a(x) + x.unique().numel()),
    ],
    ids="sum mul len shape numel".split(),
)
def test_numbers_computed_from_the_inputs_are_no_constants(forward: Callable[[Any, Tensor], Tensor]) -> None:
    """A masked channel is a constant only if what is added to it is one too."""
    net = Written(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 2)).double()
    model, kept = Model.from_module(net), torch.arange(8) % 2 == 0
    masks = Masks({"a.weight": kept[:, None]})  # the bias stays: channels are constants before the number comes in
    done = compact(model, masks, trace(model, inputs(torch.rand(2, 3).double())))
    x = torch.randn(5, 3).double() * 3
    torch.testing.assert_close(done.model(x), model.replace(masks.apply(model))(x), rtol=1e-12, atol=1e-12)


def test_slices_by_numbers_computed_from_the_inputs_are_kept() -> None:
    net = Written(lambda self, x: self.a(x)[:, : int(x.sum().item())].sum(1), a=nn.Linear(3, 8))
    structure = trace(Model.from_module(net), inputs(torch.ones(2, 3)))
    assert not structure.families and "numbers that may have been computed from the inputs" in str(structure)


def test_an_index_that_is_looked_up_stays_where_it_is() -> None:
    """`table[i]` with a tensor `i`: nothing of the table may go, and what comes later is as sure as before."""

    def forward(self: Any, x: Tensor) -> Tensor:
        row = self.table[x.argmax()]
        return self.b(self.a(x) * 2 + row[:8].sum())

    net = Written(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 2), table=nn.Parameter(torch.randn(3, 8)))
    model = Model.from_module(net.double())
    structure = trace(model, inputs(torch.rand(1, 3).double()))
    assert {part.tensor for family in structure.families for part in family.slices if part.dim == 0} >= {"a.weight"}
    assert not structure.family_of("table", 0)
    kept = torch.arange(8) % 2 == 0
    done = compact(model, Masks({"a.weight": kept[:, None], "a.bias": kept, "b.weight": kept}), structure)
    assert sum(done.report.removed.values()) == 4


def test_experts_lose_the_same_hidden_units() -> None:
    """Which expert is taken depends on the data; a hidden unit that is masked in all of them can go."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in F.one_hot(self.gate(x).argmax(-1), 3).sum(0).nonzero():
            rows = (self.gate(x).argmax(-1) == expert).nonzero()[:, 0]
            hidden = F.linear(x[rows], self.up[expert[0]]).relu()
            out = out.index_add(0, rows, F.linear(hidden, self.down[expert[0]]))
        return out

    torch.manual_seed(0)
    parameters = {"up": nn.Parameter(torch.randn(3, 8, 4)), "down": nn.Parameter(torch.randn(3, 4, 8))}
    net = Written(forward, gate=nn.Linear(4, 3), **parameters).double()
    model, x = Model.from_module(net), torch.randn(9, 4).double()
    structure, kept = trace(model, inputs(x)), torch.arange(8) % 2 == 0
    assert len(structure.families) == 1 and len(structure.families[0]) == 8
    masks = Masks({"up": kept[:, None], "down": kept})
    done, masked = compact(model, masks, structure), model.replace(masks.apply(model))
    assert done.model["up"].shape == (3, 4, 4) and done.report.style == "module"
    for y in (x, torch.randn(20, 4).double(), x[:1]):
        torch.testing.assert_close(done.model(y), masked(y), rtol=1e-12, atol=1e-12)
    one = (
        torch.ones(3, 8, 1, dtype=torch.bool)
        .index_fill(1, torch.tensor([0]), False)
        .index_fill(0, torch.tensor([1]), True)
    )
    assert not compact(model, Masks({"up": one}), structure).report.removed  # the second expert still needs it


def test_the_branch_not_taken_is_tried_as_well() -> None:
    """It means over channels that the other branch does not reduce: with fewer of them it would give something else."""
    net = Written(lambda self, x: self.b(h) if (h := self.a(x)).sum() < 100 else h.mean(-1), a=nn.Linear(3, 8))
    net.b = nn.Linear(8, 2)
    model, kept = Model.from_module(net.double()), torch.arange(8) % 2 == 0
    structure = trace(model, inputs(torch.zeros(2, 3).double()))
    masks = Masks({"a.weight": kept[:, None], "a.bias": kept, "b.weight": kept})
    with pytest.raises(StructureError, match=r"on the branch not taken at .*test_capture.py"):
        compact(model, masks, structure)


def test_a_branch_not_taken_that_fails_is_left_out() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if x.abs().sum() > 1e6:
            raise ValueError("too large")
        return self.b(self.a(x))

    net = Written(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 2)).double()
    model, kept = Model.from_module(net), torch.arange(8) % 2 == 0
    done = compact(
        model, Masks({"a.weight": kept[:, None], "a.bias": kept}), trace(model, inputs(torch.ones(2, 3).double()))
    )
    assert sum(done.report.removed.values()) == 4 and not any("branch" in name for name in done.report.trials)


def test_a_graph_is_refused_where_data_is_read() -> None:
    net = Written(lambda self, x: self.b(self.a(x)) if x.sum() > 0 else x, a=nn.Linear(3, 8), b=nn.Linear(8, 3))
    model, kept = Model.from_module(net), torch.arange(8) % 2 == 0
    structure = trace(model, inputs(torch.ones(2, 3)))
    masks = Masks({"a.weight": kept[:, None], "a.bias": kept})
    assert compact(model, masks, structure).report.style == "module"
    with pytest.raises(StructureError, match="reads values computed from its inputs"):
        compact(model, masks, structure, style="graph")


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
    assert zeros.sources["size"] == (Size(graph.inputs[0], 0), None)


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
    with pytest.raises(ModelError, match=r"fails in '1\.0', Linear\(.*\), on example inputs of shapes \[\(1, 3\)\]"):
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
    heads, width = Attribute("", "heads"), Attribute("", "width")
    assert views[0] == (Size(graph.inputs[0], 0), heads, width)  # `len(x)`, found by a second recording
    assert views[1] == (None, Combined("*", heads, width))
    assert views[2] is not None and views[2][-1] == Attribute("", "shape", 1)
    assert graph.attributes[heads] == 4 and graph.attributes[Attribute("", "shape", 1)] == 6


def test_sizes_remember_the_shapes_they_were_read_from() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        b, n, c = x.shape
        return self.a(x).reshape(b, n, 4, c // 4).transpose(1, 2).reshape(b, -1, x.size(-1))

    graph = graph_of(Written(forward, a=nn.Linear(8, 8)), torch.zeros(2, 5, 8))
    (x,) = graph.inputs
    views = [node.sources["shape"] for node in graph.nodes if node.name == "reshape"]
    assert views[0] == (Size(x, 0), Size(x, 1), None, Combined("//", Size(x, 2), 4))
    assert views[1] == (Size(x, 0), None, Size(x, 2))


def test_equal_sizes_are_told_apart_by_position() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x).view(x.shape[0], 2, 2)

    graph = graph_of(Written(forward, a=nn.Linear(3, 4)), torch.zeros(2, 3))
    (view,) = [node for node in graph.nodes if node.name == "view"]
    assert view.sources["size"] == (Size(graph.inputs[0], 0), None, None)


def test_an_expression_is_matched_by_value_only_if_it_is_the_only_one() -> None:
    a, b = Attribute("", "a"), Attribute("", "b")
    assert sources([4], [(4, a), (7, None)]) == (a,)
    assert sources([4], [(4, a), (4, b)]) == (None,)
    assert sources([4, 9], [(9, b), (4, a)]) == (a, b)
    assert sources([4], [(4, a), (4, None)]) == (None,)


def test_traced_integers_are_integers() -> None:
    attribute = Attribute("m", "n")
    n = TracedInt(6, attribute)
    results = [n + 1, 1 + n, n - 1, 9 - n, n * 2, 2 * n, n // 2, 13 // n]
    assert [int(r) for r in results] == [7, 7, 5, 3, 12, 12, 3, 2]
    assert all(type(r) is TracedInt for r in results)
    assert n / 2 == 3.0 and type(n / 2) is float and type(n * 1.5) is float and n == 6 and hash(n) == hash(6)
    assert (n + 1).expression == Combined("+", attribute, 1) and str((n + 1).expression) == "(m.n + 1)"
    assert range(n)[-1] == 5 and [0] * n == [0] * 6
    assert type(copy.deepcopy(n)) is int and type(pickle.loads(pickle.dumps(n))) is int  # what nobody traces is plain


class Config:
    """A configuration, as model libraries keep it."""

    def __init__(self) -> None:
        self.heads, self.name = 4, "m"


def test_only_the_users_own_attributes_are_traced() -> None:
    net = Sized()
    net.config = Config()
    private = copy.deepcopy(net)
    found = trace_attributes(private, net)
    assert type(private.heads) is TracedInt and type(private.shape[1]) is TracedInt
    assert type(private.fc.in_features) is int and type(net.heads) is int
    assert type(private.config.heads) is TracedInt and type(net.config.heads) is int
    assert found[Attribute("", "config", "heads")] == 4


def test_an_object_that_a_copy_shares_is_left_alone() -> None:
    class Shared(Config):
        def __deepcopy__(self, memo: Any) -> "Shared":
            return self

    net = Sized()
    net.config = Shared()
    trace_attributes(copy.deepcopy(net), net)
    assert type(net.config.heads) is int


def test_values_that_are_read_are_on_record() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else -self.a(x)

    graph = graph_of(Written(forward, a=nn.Linear(3, 4)), torch.ones(2, 3))
    assert names(graph) == ["linear"]
    (read,) = graph.reads
    assert read.operator == "is_nonzero" and read.call == 0 and "test_capture.py" in read.site


def test_module_calls_are_on_record() -> None:
    graph = graph_of(nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.ReLU()), torch.ones(2, 3))
    assert [(call.path, call.parent) for call in graph.calls] == [("", -1), ("0", 0), ("0.0", 1), ("1", 0)]
    assert graph.calls[2].arguments == ((Ref(graph.inputs[0]),), {})
    assert graph.calls[3].returns == Ref(graph.outputs[0]) and graph.calls[2].returns == Ref(graph.nodes[0].out)


def test_functional_dropout_in_eval_mode() -> None:
    net = Written(lambda self, x: F.dropout(x, 0.5, self.training))
    assert graph_of(net, torch.zeros(1, 3)).nodes[0].bound["train"] is False
