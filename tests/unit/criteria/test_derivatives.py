"""What holds for every criterion made of derivatives: nothing is changed or kept, the same seed gives the same bits."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fprune.allocate import dependency_aware
from fprune.criteria import Criterion, curvature, fisher_diagonal, gradient_flow, sensitivity, squared_change
from fprune.criteria.derivatives import gradients
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import fisher, grasp, hessian, snip, synflow, taylor
from fprune.schedules import agp
from fprune.scope import Scope
from fprune.stages import speed_up
from fprune.tree import digest
from tests.oracle.networks import cases

CRITERIA: dict[str, Callable[..., Criterion]] = {
    "taylor": squared_change,
    "snip": sensitivity,
    "grasp": gradient_flow,
    "fisher": fisher_diagonal,
    "hessian": curvature,
}
every = pytest.mark.parametrize("name", CRITERIA)


def scored(criterion: Criterion, model: Model, **options: Any) -> dict[str, Tensor]:
    scope = Scope.of(model, **options)
    return criterion(scope, scope.layers)


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def network(drop: float = 0.5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.SiLU(inplace=True),
            nn.Dropout(drop),
            nn.Flatten(),
            nn.Linear(4 * 36, 6),
            nn.Tanh(),
            nn.Linear(6, 3),
        )


def data(samples: int = 12) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(samples, 1, 8, 8, generator=draw), torch.randint(0, 3, (samples,), generator=draw))


BATCHES = list(DataLoader(data(), batch_size=6))


@every
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_the_callers_changes(name: str, context: Any, training: bool) -> None:
    net = network().train()
    net[0].requires_grad_(False)
    model = Model.from_module(net)
    flags = [module.training for module in model.skeleton.modules()]
    before, given, state = digest(model), digest(BATCHES), torch.get_rng_state()
    with context():
        found = scored(CRITERIA[name](loss, BATCHES, training=training), model)
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert mode == (context is torch.enable_grad, context is torch.inference_mode)
    assert digest(model) == before
    assert digest(BATCHES) == given
    assert [module.training for module in model.skeleton.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(values.requires_grad or values.is_inference() for values in found.values())
    assert {key: values.shape for key, values in found.items()} == {k: model[k].shape for k in found}


@every
def test_an_error_in_the_loss_names_the_batch_and_leaves_no_trace(name: str) -> None:
    model = Model.from_module(network())
    before, state = digest(model), torch.get_rng_state()

    def broken(model: Any, batch: Any) -> Tensor:
        torch.rand(3)
        if batch is BATCHES[1] or len(batch[0]) == 1:
            raise RuntimeError("no such file")
        return loss(model, batch)

    with pytest.raises(RuntimeError, match="no such file") as caught, torch.no_grad():
        scored(CRITERIA[name](broken, BATCHES), model)
    where = "gradient, batch" if name == "grasp" else "batch"
    assert any(where in note for note in caught.value.__notes__)
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_a_loss_that_is_not_finite_is_refused_by_its_batch(name: str) -> None:
    broken = [BATCHES[0], [torch.full_like(BATCHES[1][0], float("nan")), BATCHES[1][1]]]
    with pytest.raises(ScoreError, match="batch 1: the loss is nan"):
        scored(CRITERIA[name](loss, broken), Model.from_module(network()))


@every
def test_the_mode_of_the_module_makes_no_difference(name: str) -> None:
    results = [
        scored(CRITERIA[name](loss, BATCHES), Model.from_module(network().train(mode))) for mode in (True, False)
    ]
    assert digest(results[0]) == digest(results[1])


@every
def test_the_same_seed_gives_the_same_bits_with_dropout_and_a_shuffling_loader(name: str) -> None:
    model = Model.from_module(network())
    loader = DataLoader(data(), batch_size=6, shuffle=True)
    criterion = CRITERIA[name](loss, loader, training=True)
    torch.manual_seed(1)
    first = scored(criterion, model, seed=4)
    torch.manual_seed(2)
    assert digest(scored(criterion, model, seed=4)) == digest(first)
    assert digest(scored(criterion, model, seed=5)) != digest(first)


@every
def test_batches_are_not_kept(name: str) -> None:
    class Fresh:
        def __init__(self) -> None:
            self.most = 0

        def __iter__(self) -> Iterator[Any]:
            alive: list[weakref.ref[Tensor]] = []
            for seed in range(5):
                gc.collect()
                self.most = max(self.most, sum(ref() is not None for ref in alive))
                x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
                alive.append(weakref.ref(x))
                yield x, torch.tensor([0, 1])
                del x

    batches = Fresh()
    scored(CRITERIA[name](loss, batches), Model.from_module(network()))
    assert batches.most <= 1, "earlier batches are still in memory"


@every
def test_half_precision_is_scored_in_float32(name: str) -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).bfloat16())
    draw = torch.Generator().manual_seed(0)
    batches = [(torch.randn(6, 4, generator=draw).bfloat16(), torch.randint(0, 3, (6,), generator=draw))]
    tiny = scored(CRITERIA[name](lambda m, b: loss(m, b) * 2.0**-60, batches), model)
    assert all(values.dtype == torch.float32 and values.count_nonzero() > 0 for values in tiny.values())


@every
def test_what_is_masked_plays_no_part(name: str) -> None:
    """A masked weight is 0 whatever its value, neither scored nor moved; the others score as in the zeroed model."""
    model = Model.from_module(network())
    keep = torch.rand(model["5.weight"].shape, generator=torch.Generator().manual_seed(2)) > 0.5
    masks = Masks({"5.weight": keep})
    zeroed = model.replace({"5.weight": torch.where(keep, model["5.weight"], 0.0)})
    wild = model.replace({"5.weight": torch.where(keep, model["5.weight"], float("nan"))})
    one, other = (scored(CRITERIA[name](loss, BATCHES), m, masks=masks, seed=1) for m in (zeroed, wild))
    assert digest(one) == digest(other)
    assert bool((one["5.weight"][~keep] == -torch.inf).all())
    assert bool(one["5.weight"][keep].isfinite().all())


@every
def test_tensors_alone_are_refused(name: str) -> None:
    with pytest.raises(CompositionError, match=f"{name} runs the model on batches"):
        scored(CRITERIA[name](loss, BATCHES), {"w": torch.ones(2, 2)})  # type: ignore[arg-type]


@every
def test_data_is_checked_when_the_criterion_is_written(name: str) -> None:
    with pytest.raises(ConfigTypeError, match="the criterion: batches is a list_iterator, which can be read only once"):
        CRITERIA[name](loss, iter(BATCHES))
    with pytest.raises(
        ConfigTypeError, match=r"the criterion: loss: expected a function loss\(model, batch\), got list"
    ):
        CRITERIA[name](BATCHES, loss, training=True)
    with pytest.raises(ConfigError, match="the criterion: there are no batches"):
        CRITERIA[name](loss, [], training=True)


@pytest.mark.parametrize("kind", ["plain", "branches", "tied"])
@every
def test_scores_of_a_compact_model_are_those_of_the_masked_one(name: str, kind: str) -> None:
    case = cases()[kind]
    if case.example is None:
        example: Any = {key: value[:1] for key, value in case.batches[0].items()}
    else:
        example = (case.example,)
    pruner = {"taylor": taylor, "snip": snip, "grasp": grasp, "fisher": fisher, "hessian": hessian}[name]
    stage = pruner(case.loss, case.batches, dependency_aware)
    config = [{"op_types": ["Conv2d", "Linear"] if kind == "branches" else ["Linear"], "sparsity": 0.5}]
    each_round = (agp(2) | stage | speed_up()).run(case.net, config, example_inputs=example)
    at_the_end = (agp(2) | stage).run(case.net, config, example_inputs=example)
    assert sum(value.numel() for value in each_round.model.values()) < sum(map(torch.numel, case.model.values()))
    for key, value in at_the_end.model.items():
        kept = at_the_end.masks[key].expand(value.shape) if key in at_the_end.masks else slice(None)
        assert torch.equal(each_round.model[key].flatten(), value[kept].flatten()), key


@pytest.mark.parametrize("pruner", [snip, grasp, fisher, hessian, taylor])
def test_channels_or_elements_go_as_asked(pruner: Any) -> None:
    model = Model.from_module(network())
    channels = pruner(loss, BATCHES, granularity="channel").masks(model, 0.5)
    elements = pruner(loss, BATCHES, granularity="element").masks(model, 0.5)
    assert channels["0.weight"].shape == (4, 1, 1, 1)
    assert "0.bias" in channels
    assert elements["0.weight"].shape == (4, 1, 3, 3)
    assert "0.bias" not in elements


def test_synflow_changes_nothing_and_needs_no_data() -> None:
    model = Model.from_module(network())
    before, state = digest(model), torch.get_rng_state()
    masks = synflow().masks(model, 0.9, example_inputs=torch.ones(1, 1, 8, 8))
    again = synflow().masks(model, 0.9, example_inputs=-3 * torch.ones(1, 1, 8, 8))
    assert masks == again
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert masks.sparsity({name: model[name] for name in masks}) == pytest.approx(0.9, abs=1e-3)


def test_synflow_keeps_every_layer_connected_where_one_round_does_not() -> None:
    """The reason for the rounds: at a high sparsity one round takes nearly all of the layer with the most weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in ((4, 64), (64, 64), (64, 4))])
    model = Model.from_module(net)
    one, many = (synflow(rounds=n).masks(model, 0.97, example_inputs=torch.ones(1, 4)) for n in (1, 100))

    def paths(masks: Masks) -> int:
        kept = [masks[f"{i}.weight"].double() for i in range(3)]
        return int((kept[2] @ kept[1] @ kept[0]).sum())

    assert paths(many) > 10 * paths(one)


def test_gradients_of_two_weights_that_share_memory_are_summed_apart() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return ((self.a.weight + self.b.weight) * x).sum()

    model = Model.from_module(Sum())
    for build in (squared_change, sensitivity, gradient_flow):
        found = scored(build(lambda m, x: m(x) ** 2 / 2, [torch.ones(2, 2), torch.ones(2, 2)]), model)
        swapped = model.replace({"a.weight": model["b.weight"], "b.weight": model["a.weight"]})
        other = scored(build(lambda m, x: m(x) ** 2 / 2, [torch.ones(2, 2), torch.ones(2, 2)]), swapped)
        torch.testing.assert_close(found["a.weight"], other["b.weight"])


def test_a_gradient_is_that_of_the_canonical_name() -> None:
    case = cases()["tied"]
    model = case.model.eval()
    found = gradients(model, case.loss, {"embed.weight": model["embed.weight"]})(case.batches[0], "batch 0")
    net = case.reference()
    case.loss(net, case.batches[0]).backward()
    torch.testing.assert_close(found["embed.weight"], net.embed.weight.grad)
