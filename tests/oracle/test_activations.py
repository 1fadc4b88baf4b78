"""Scores from activations against forward hooks on a copy of the network, written by hand."""

import copy
import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune import (
    Masks,
    Model,
    agp,
    apoz,
    count,
    dependency_aware,
    globally,
    l1,
    mean_activation,
    one_shot,
    speed_up,
)
from fprune.criteria import activity
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError
from fprune.scope import Scope
from fprune.tree import digest


def forward(model: Callable[..., object], batch: Tensor) -> None:
    model(batch)


class Net(nn.Module):
    """A network whose forward is given; `parts` are its modules."""

    def __init__(self, fn: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self, x)


def reused(net: Net, x: Tensor) -> Tensor:
    x = net.relu(net.b1(net.c1(x)))
    return net.c3(net.relu(net.b2(net.c2(x))))


def residual(net: Net, x: Tensor) -> Tensor:
    x = net.relu(net.b1(net.c1(x)))
    return net.c3(net.relu(net.b2(net.c2(x)) + x))


def tokens(net: Net, x: Tensor) -> Tensor:
    return net.last(net.drop(F.gelu(net.norm(net.first(x)))))


def written_out(net: Net, x: Tensor) -> Tensor:
    x = net.first(x)
    return net.last(x * torch.sigmoid(x))


def twice(net: Net, x: Tensor) -> Tensor:
    return net.last(F.relu(net.same(torch.tanh(net.same(x)))))


def torn(net: Net, x: Tensor) -> Tensor:
    x = net.first(x)
    return net.last(F.relu(x) + net.other(x))


def norms(width: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(width)
    with torch.no_grad():
        made.weight.copy_(torch.randn(width))
        made.bias.copy_(torch.randn(width))
        made.running_mean.copy_(torch.randn(width))
        made.running_var.copy_(torch.rand(width) + 0.5)
    return made


def conv(*sizes: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(*sizes, 3, padding=1, **options)


# What each layer's channels become, from the outputs of modules in the order of their calls.
Outputs = dict[str, list[Tensor]]
Taps = dict[str, tuple[Callable[[Outputs], list[Tensor]], int]]


def images() -> list[Tensor]:
    return [torch.randn(n, 3, 6, 6) for n in (2, 3)]


def sequences() -> list[Tensor]:
    return [torch.randn(n, 4, 5) for n in (2, 1)]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Tensor]], Taps]] = {
    "batch norm, one ReLU used twice": (
        lambda: Net(reused, c1=conv(3, 6), b1=norms(6), c2=conv(6, 8), b2=norms(8), relu=nn.ReLU(), c3=conv(8, 2)),
        images,
        {
            "c1": (lambda o: o["relu"][0::2], 1),
            "c2": (lambda o: o["relu"][1::2], 1),
            "c3": (lambda o: o["c3"], 1),
        },
    ),
    "the same in place": (
        lambda: Net(
            reused, c1=conv(3, 6), b1=norms(6), c2=conv(6, 8), b2=norms(8), relu=nn.ReLU(inplace=True), c3=conv(8, 2)
        ),
        images,
        {"c1": (lambda o: o["relu"][0::2], 1), "c2": (lambda o: o["relu"][1::2], 1)},
    ),
    "in place right behind the layer": (
        lambda: nn.Sequential(conv(3, 6), nn.LeakyReLU(0.5, inplace=True), conv(6, 4)),
        images,
        {"0": (lambda o: o["1"], 1), "2": (lambda o: o["2"], 1)},
    ),
    "a sum ends the way": (
        lambda: Net(residual, c1=conv(3, 6), b1=norms(6), c2=conv(6, 6), b2=norms(6), relu=nn.ReLU(), c3=conv(6, 2)),
        images,
        {"c1": (lambda o: o["relu"][0::2], 1), "c2": (lambda o: o["c2"], 1)},
    ),
    "two uses end the way": (
        lambda: Net(torn, first=nn.Linear(5, 6), other=nn.Linear(6, 6), last=nn.Linear(6, 2)),
        sequences,
        {"first": (lambda o: o["first"], 2), "other": (lambda o: o["other"], 2)},
    ),
    "tokens": (
        lambda: Net(tokens, first=nn.Linear(5, 7), norm=nn.LayerNorm(7), drop=nn.Dropout(0.5), last=nn.Linear(7, 2)),
        sequences,
        {"first": (lambda o: [F.gelu(x) for x in o["norm"]], 2), "last": (lambda o: o["last"], 2)},
    ),
    "a function written out": (
        lambda: Net(written_out, first=nn.Linear(5, 7), last=nn.Linear(7, 2)),
        sequences,
        {"first": (lambda o: [F.silu(x) for x in o["first"]], 2)},
    ),
    "one layer used twice": (
        lambda: Net(twice, same=nn.Linear(5, 5), last=nn.Linear(5, 2)),
        sequences,
        {"same": (lambda o: [*map(torch.tanh, o["same"][0::2]), *map(F.relu, o["same"][1::2])], 2)},
    ),
    "groups, transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU6(), conv(6, 4)
        ),
        images,
        {"0": (lambda o: o["1"], 1), "2": (lambda o: o["3"], 1), "4": (lambda o: o["4"], 1)},
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, activation="gelu"),
        lambda: [torch.randn(n, 4, 6) for n in (2, 1)],
        {
            "linear1": (lambda o: [F.gelu(x) for x in o["linear1"]], 2),
            "linear2": (lambda o: o["linear2"], 2),
            "self_attn.out_proj": (lambda o: o["self_attn"], 2),
        },
    ),
}


def hooked(net: nn.Module, batches: list[Tensor]) -> Outputs:
    """The outputs of every module of a copy, call by call."""
    net, outputs = copy.deepcopy(net).eval(), defaultdict(list)
    for path, module in net.named_modules():

        def note(module: nn.Module, args: object, out: object, path: str = path) -> None:
            outputs[path].append((out[0] if isinstance(out, tuple) else out).detach().clone())

        module.register_forward_hook(note)
    with torch.no_grad():
        for batch in batches:
            net(batch)
    return outputs


def by_hand(activations: list[Tensor], dim: int, measure: str) -> Tensor:
    rows = torch.cat([a.double().movedim(dim, 0).flatten(1) for a in activations], dim=1)
    values = rows.abs() if measure == "size" else (rows != 0).double()
    return torch.stack([row.sum() / len(row) for row in values]).float()


@pytest.mark.parametrize("measure", ["size", "nonzero"])
@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_hooks_on_a_copy(name: str, measure: str) -> None:
    torch.manual_seed(0)
    make, data, taps = CASES[name]
    net, batches = make(), data()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused attention calls no module
    try:
        outputs = hooked(net, batches)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    model = Model.from_module(net)
    scope = Scope.of(model, example_inputs=(torch.zeros_like(batches[0]),))
    layers = [layer for layer in model.layers if layer.name in taps]
    scores = activity(forward, batches, measure)(scope, layers)
    assert [layer.name for layer in layers] and len(layers) == len(taps)
    for layer in layers:
        tap, dim = taps[layer.name]
        expected = by_hand(tap(outputs), dim, measure)
        torch.testing.assert_close(scores[layer.weight], expected, rtol=2e-6, atol=1e-7)
        assert expected.unique().numel() > 1 or measure == "nonzero", "the case tells channels apart"


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", F.relu), ("relu6", F.relu6), ("gelu", F.gelu), (torch.tanh, torch.tanh)]
)
def test_a_given_function_is_applied_to_the_output_of_the_layer(activation: object, function: Callable) -> None:
    torch.manual_seed(1)
    make, data, _ = CASES["batch norm, one ReLU used twice"]
    net, batches = make(), [8 * x for x in data()]
    outputs, model = hooked(net, batches), Model.from_module(net)
    for measure in ("size", "nonzero"):
        scores = activity(forward, batches, measure, activation=activation)(model, model.layers[:1])
        expected = by_hand([function(x) for x in outputs["c1"]], 1, measure)
        torch.testing.assert_close(scores["c1.weight"], expected, rtol=2e-6, atol=0)


def test_rows_of_an_embedding_count_where_they_are_looked_up() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    model, batches = Model.from_module(net), [torch.tensor([[0, 1, 1]]), torch.tensor([[3, 1, 0]])]
    scores = activity(forward, batches, activation=torch.relu)(model, model.layers[:1])["0.weight"]
    rows = net[0].weight.detach().double().relu().sum(1) * torch.tensor([2, 3, 0, 1, 0]) / (6 * 3)
    torch.testing.assert_close(scores, rows.float())


def test_training_mode_takes_the_statistics_of_the_batch_and_leaves_the_running_ones() -> None:
    torch.manual_seed(2)
    net, x = nn.Sequential(conv(3, 6), norms(6), nn.ReLU(), conv(6, 2)), torch.randn(4, 3, 6, 6)
    model = Model.from_module(net.eval())
    scope = Scope.of(model, example_inputs=(x,))
    before = digest(model.buffers)
    scores = activity(forward, [x], training=True)(scope, model.layers[:1])["0.weight"]
    with torch.no_grad():
        out = F.relu(F.batch_norm(net[0](x), None, None, net[1].weight, net[1].bias, training=True))
    torch.testing.assert_close(scores, by_hand([out], 1, "size"), rtol=2e-6, atol=0)
    assert digest(model.buffers) == before
    other = activity(forward, [x])(scope, model.layers[:1])["0.weight"]
    assert not torch.allclose(scores, other)


def test_a_model_run_in_lower_precision_is_heard() -> None:
    model, x = Model.from_module(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))), torch.randn(5, 4)

    def lower(model: Model, x: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(x)

    scope = Scope.of(model, example_inputs=(x,))
    layers = model.layers
    low, high = (activity(f, [x])(scope, layers)["0.weight"] for f in (lower, forward))
    torch.testing.assert_close(low, high, rtol=0.05, atol=0.05)
    assert not torch.equal(low, high)


def test_how_data_is_cut_into_batches_makes_no_difference() -> None:
    torch.manual_seed(3)
    make, _, _ = CASES["batch norm, one ReLU used twice"]
    model, x = Model.from_module(make()), torch.randn(8, 3, 6, 6)
    scope = Scope.of(model, example_inputs=(x,))
    whole, parts = (activity(forward, b)(scope, model.layers[:1])["c1.weight"] for b in ([x], list(x.split([1, 5, 2]))))
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=0)


class Fresh:
    """Batches that are made anew each time, and know whether the earlier ones are still held."""

    def __init__(self, count: int) -> None:
        self.count, self.held = count, 0

    def __iter__(self) -> Iterator[Tensor]:
        made: list[weakref.ref[Tensor]] = []
        for n in range(self.count):
            gc.collect()
            self.held = max(self.held, sum(ref() is not None for ref in made))
            batch = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(n))
            made.append(weakref.ref(batch))
            yield batch
            del batch


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    model = Model.from_module(nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 2)))
    outputs: list[weakref.ref[Tensor]] = []
    most = 0

    def watched(model: Model, batch: Tensor) -> None:
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in outputs))
        outputs.append(weakref.ref(model(batch)))

    batches = Fresh(6)
    scope = Scope.of(model, example_inputs=(torch.ones(1, 3, 6, 6),))
    activity(watched, batches)(scope, model.layers)
    assert len(outputs) == 6
    assert most == 0
    assert batches.held <= 1  # the loop variable


@pytest.mark.parametrize("pruner", [apoz, mean_activation])
@pytest.mark.parametrize("allocation", [globally, dependency_aware])
def test_rounds_with_surgery_measure_the_smaller_model(pruner: Callable, allocation: Callable) -> None:
    torch.manual_seed(4)
    make, data, _ = CASES["batch norm, one ReLU used twice"]
    net, batches = make(), data()
    config = {"op_names": ["c1", "c2"], "total_sparsity" if allocation is globally else "sparsity": 0.5}
    result = (agp(2) | pruner(forward, batches, allocation) | speed_up()).run(net, config, example_inputs=(batches[0],))
    assert result.report.channel_sparsity == 0.5
    flat = (one_shot() | pruner(forward, batches, allocation)).run(net, config, example_inputs=(batches[0],))
    assert flat.report.channel_sparsity == 0.5
    if allocation is dependency_aware:
        assert count(result.model, batches[0]).params < count(net, batches[0]).params


def test_the_network_of_the_caller_is_not_touched() -> None:
    make, data, _ = CASES["batch norm, one ReLU used twice"]
    net, batches = make().train(), data()
    model = Model.from_module(net)
    before = digest(model), digest(model.buffers), torch.get_rng_state().tolist(), [m.training for m in net.modules()]
    stage = apoz(forward, batches)
    masks = [stage.masks(model, 0.5, example_inputs=(batches[0],), seed=1) for _ in range(2)]
    assert masks[0] == masks[1]
    assert before == (
        digest(model),
        digest(model.buffers),
        torch.get_rng_state().tolist(),
        [m.training for m in net.modules()],
    )
    for module in (*net.modules(), *model.skeleton.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_error_in_the_users_function_leaves_nothing_behind() -> None:
    def fails(model: Model, batch: Tensor) -> None:
        model(batch)
        raise RuntimeError("no data")

    model = Model.from_module(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="no data") as caught:
        mean_activation(fails, [torch.ones(1, 3)], activation="relu").masks(model, 0.5)
    assert "mean_activation, batch 0" in "".join(caught.value.__notes__)
    assert not torch.is_inference_mode_enabled() and torch.backends.mha.get_fastpath_enabled()
    assert torch.add(torch.ones(1), 1).item() == 2  # no mode is left on


def test_what_is_masked_already_does_not_count() -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    model = model.replace({"0.bias": torch.tensor([9.0, 1.0, 2.0, 3.0])})
    gone = Masks({"0.weight": torch.tensor([[False], [True], [True], [True]]), "0.bias": torch.arange(4) > 0})
    stage = mean_activation(forward, [torch.zeros(1, 3)], activation="relu")
    masks = stage.masks(model, [{"op_names": ["0"], "sparsity": 0.5}], masks=gone)
    assert (masks & gone)["0.bias"].tolist() == [False, False, True, True]


NET = Model.from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
X = torch.ones(2, 3)


class Stray(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.mixed = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + torch.einsum("ni,oi->no", x, self.mixed.weight)


REFUSED = {
    "an iterator": (lambda: apoz(forward, iter([X])), ConfigTypeError, "can be read only once"),
    "no batches": (lambda: mean_activation(forward, []), ConfigError, "there are no batches"),
    "a name": (lambda: apoz(forward, [X], activation="rellu"), ConfigError, "Did you mean 'relu'"),
    "a number": (lambda: apoz(forward, [X], activation=3), ConfigTypeError, "got 3"),
    "a measure": (lambda: activity(forward, [X], "median"), ConfigError, "'nonzero', 'size'"),
    "no inputs": (lambda: apoz(forward, [X]).masks(NET, 0.5), CompositionError, "example_inputs"),
    "no inputs, alone": (lambda: activity(forward, [X])(NET, NET.layers), CompositionError, "activation='relu'"),
    "no model": (
        lambda: apoz(forward, [X], activation="relu").masks(dict(NET), 0.5),
        CompositionError,
        "Model.from_module",
    ),
    "another shape": (
        lambda: apoz(forward, [X], activation=lambda a: a.sum(1)).masks(NET, 0.5),
        ScoreError,
        r"gave shape \(2,\)",
    ),
    "not finite": (
        lambda: apoz(forward, [X, X / 0], activation="relu").masks(NET, 0.5),
        ScoreError,
        "'0.weight' is not finite",
    ),
    "not reached": (
        lambda: apoz(forward, [X], activation="relu").masks(
            Model.from_module(Stray()), {"op_names": ["unused"], "sparsity": 0.5}
        ),
        ScoreError,
        "never use 'unused.weight'",
    ),
    "no channels": (
        lambda: apoz(forward, [X], activation="relu").masks(
            Model.from_module(Stray()), {"op_names": ["mixed"], "sparsity": 0.5}
        ),
        ScoreError,
        "'mixed.weight' is read by",
    ),
    "a forward that does not call": (
        lambda: apoz(lambda m, x: m.skeleton, [X], activation="relu").masks(NET, 0.5),
        ScoreError,
        "never use '0.weight'\nhint: call the model that forward is given",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        make()


def test_a_layer_used_more_often_than_the_structure_knows_is_refused() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = torch.relu(self.fc(x))
            return x

    model = Model.from_module(Loop())
    scope = Scope.of(model, example_inputs=(torch.ones(2, 3),))
    assert activity(forward, [torch.ones(2, 3)] * 2)(scope, model.layers)["fc.weight"].shape == (3,)
    with pytest.raises(ScoreError, match=r"apoz, batch 1: 'fc.weight' is used 3 times, and 2 times"):
        activity(forward, [torch.ones(2, 3), torch.ones(3, 3)], "nonzero")(scope, model.layers)


def test_the_structure_is_needed_only_to_find_the_models_own_functions() -> None:
    assert apoz(forward, [X]).needs == {"structure"}
    assert apoz(forward, [X], activation="relu").needs == frozenset()
    assert apoz(forward, [X], dependency_aware, activation="relu").needs == {"structure", "example_inputs"}
    with pytest.raises(CompositionError, match="needs structure"):
        (one_shot() | apoz(forward, [X])).run(NET, 0.5)
    assert l1().needs == frozenset()
