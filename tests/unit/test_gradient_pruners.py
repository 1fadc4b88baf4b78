"""Pruners with a loss under their public names: the criterion and the allocation they stand for, what they refuse."""

from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fprune.allocate import dependency_aware, globally, n_m, per_layer
from fprune.compose import Stage
from fprune.criteria import curvature, fisher_diagonal, gradient_flow, sensitivity, squared_change, synaptic_flow
from fprune.errors import CompositionError, ConfigError, ConfigTypeError
from fprune.inputs import inputs
from fprune.model import Model
from fprune.pruners import fisher, grasp, hessian, snip, synflow, taylor
from fprune.records import TaskResult
from fprune.scope import Scope
from tests.unit.toys import X, net

BATCHES = [(X, torch.tensor([0, 1, 2, 3, 0])), (X.flip(0), torch.tensor([3, 1, 2, 0, 1]))]
WITH_LOSS = {
    taylor: (squared_change, per_layer, "channel"),
    snip: (sensitivity, globally, "element"),
    grasp: (gradient_flow, globally, "element"),
    fisher: (fisher_diagonal, globally, "element"),
    hessian: (curvature, globally, "element"),
}
with_loss = pytest.mark.parametrize("pruner", WITH_LOSS, ids=repr)


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


MODEL = Model.from_module(net())


@with_loss
@pytest.mark.parametrize("allocation", [None, per_layer, globally, n_m(1, 2)])
def test_a_pruner_is_its_criterion_and_its_allocation(pruner: Any, allocation: Any) -> None:
    criterion, usual, grain = WITH_LOSS[pruner]
    given = () if allocation is None else (allocation,)
    expected = (allocation or usual)(criterion(loss, BATCHES).at(grain), MODEL, 0.5)
    assert pruner(loss, BATCHES, *given).masks(MODEL, 0.5) == expected


@with_loss
def test_options_reach_the_criterion(pruner: Any) -> None:
    criterion, usual, _ = WITH_LOSS[pruner]
    for grain in ("element", "channel"):
        expected = usual(criterion(loss, BATCHES).at(grain), MODEL, 0.5)
        assert pruner(loss, BATCHES, granularity=grain).masks(MODEL, 0.5) == expected
    if pruner is not fisher:  # single samples have no batch statistics
        trained = usual(criterion(loss, BATCHES, training=True).at("channel"), MODEL, 0.5)
        assert pruner(loss, BATCHES, granularity="channel", training=True).masks(MODEL, 0.5) == trained
    if pruner is taylor:
        joint = per_layer(squared_change(loss, BATCHES, joint=True).at("channel"), MODEL, 0.5)
        assert taylor(loss, BATCHES, joint=True).masks(MODEL, 0.5) == joint
    if pruner is hessian:
        one = globally(curvature(loss, BATCHES, probes=1), MODEL, 0.5)
        assert hessian(loss, BATCHES, probes=1).masks(MODEL, 0.5) == one


@with_loss
def test_in_a_run_the_round_brings_model_masks_and_seed(pruner: Any) -> None:
    start = TaskResult.start(net(), 0.5, seed=3)
    first = pruner(loss, BATCHES)(start)
    assert first.masks.counts(first.model) and first.masks == pruner(loss, BATCHES)(start).masks
    second = pruner(loss, BATCHES)(attrs.evolve(first))
    assert second.masks.counts(second.model) == first.masks.counts(first.model)


@with_loss
def test_it_prints_itself_in_brief_and_compares_by_value(pruner: Any) -> None:
    stage = pruner(loss, BATCHES, globally)
    assert isinstance(stage, Stage)
    assert repr(stage).startswith(f"{pruner!r}(loss, [(") and len(repr(stage)) < 120
    assert stage == pruner(loss, [tuple(t.clone() for t in batch) for batch in BATCHES], globally)
    assert stage != pruner(loss, BATCHES[:1], globally)
    assert stage.needs == frozenset()
    assert pruner(loss, BATCHES, dependency_aware).needs == {"example_inputs", "structure"}


@with_loss
@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ((BATCHES, loss), {}, ConfigTypeError, r"loss: expected a function loss\(model, batch\), got list"),
        ((loss, iter(BATCHES)), {}, ConfigTypeError, "list_iterator, which can be read only once"),
        ((loss, X), {}, ConfigTypeError, "whose items are rows"),
        ((loss, []), {}, ConfigError, "there are no batches"),
        ((loss, BATCHES), {"granularity": "filter"}, ConfigError, "expected granularity 'element' or 'channel'"),
        ((loss, BATCHES), {"training": 1}, ConfigTypeError, "training: expected True or False, got 1"),
        ((loss,), {}, CompositionError, "missing a required argument: 'batches'"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_written(
    pruner: Any, given: Any, options: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        pruner(*given, **options)
    assert str(caught.value).startswith(repr(pruner))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: hessian(loss, BATCHES, probes=0), ConfigError, "probes: expected at least 1, got 0"),
        (lambda: hessian(loss, BATCHES, probes=True), ConfigTypeError, "probes: expected an int"),
        (lambda: taylor(loss, BATCHES, joint="yes"), ConfigTypeError, "joint: expected True or False"),
        (lambda: synflow(rounds=0), ConfigError, "rounds: expected at least 1, got 0"),
        (lambda: synflow(rounds=1.5), ConfigTypeError, "rounds: expected an int, got 1.5"),
        (lambda: synflow(granularity="unit"), ConfigError, "synflow: expected granularity"),
        (lambda: squared_change(loss, iter(BATCHES)), ConfigTypeError, "can be read only once"),
        (lambda: curvature(loss, BATCHES, probes=0), ConfigError, "at least 1"),
    ],
)
def test_options_are_checked_when_they_are_written(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_synflow_needs_a_model_and_example_inputs() -> None:
    assert synflow().needs == {"example_inputs"}
    with pytest.raises(CompositionError, match=r"(?s)synflow needs example_inputs.*example_inputs=\(x,\)"):
        synflow().masks(MODEL, 0.5)
    with pytest.raises(CompositionError, match="synflow runs the model"):
        synflow().masks({"w": torch.ones(2, 2)}, 0.5, example_inputs=X)


def test_synflow_of_one_round_is_its_criterion() -> None:
    scope = Scope.of(MODEL, example_inputs=X)
    assert synflow(rounds=1).masks(MODEL, 0.5, example_inputs=X) == globally(synaptic_flow(), scope, 0.5)


def test_synflow_reads_whole_numbers_as_they_are_and_the_outputs_that_matter() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.used = nn.Linear(3, 2, bias=False)
            self.unused = nn.Linear(3, 2, bias=False)

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            x = self.embed(ids).mean(1)
            return self.used(x), self.unused(x)

    model = Model.from_module(Words())
    scope = Scope.of(model, example_inputs=inputs(torch.tensor([[2, 4]]), outputs=lambda out: out[0]))
    found = synaptic_flow()(scope, scope.layers)
    assert found["embed.weight"].any(dim=1).tolist() == [False, False, True, False, True]
    assert found["used.weight"].all()
    assert not found["unused.weight"].any()
