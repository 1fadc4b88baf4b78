"""`finetune` trains a private copy and hands back the same tensors, trained; anything else is an error."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fprune.errors import CompositionError, StageError
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.stages import finetune
from tests.unit import toys
from tests.zoo.models import resnet18

ROWS = {"0.weight": torch.arange(8)[:, None] > 3, "0.bias": torch.arange(8) > 3}


def start(net: nn.Module | None = None, **options: Any) -> TaskResult:
    return TaskResult.start(net or toys.net(), 0.5, **options).next(Goal(0.5))


def test_parameters_and_statistics_are_trained() -> None:
    before = start()
    after = finetune(toys.train)(before)
    assert after.model.skeleton is before.model.skeleton
    assert after.model["0.weight"].ne(before.model["0.weight"]).any()
    assert after.model.buffers["1.running_mean"].any()
    assert after.model.buffers["1.num_batches_tracked"] == 2
    assert after.metrics["loss"] > 0
    assert before == start()


def test_training_matches_the_same_loop_on_the_module() -> None:
    module = toys.net()

    def loop(module: nn.Module) -> None:
        sgd = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(3):
            sgd.zero_grad()
            module(toys.X).square().mean().backward()
            sgd.step()

    after = finetune(loop)(start())
    loop(module)
    assert after.model == Model.from_module(module)


def test_pruned_weights_stay_exactly_zero() -> None:
    after = finetune(toys.train)(start(masks=ROWS))
    assert not after.model["0.weight"][:4].any()
    assert not torch.signbit(after.model["0.weight"][:4]).any()
    assert after.model["0.weight"][4:].all()
    assert not after.model["0.bias"][:4].any()


def test_masked_weights_that_are_not_zero_yet_are_when_training_begins() -> None:
    seen = []
    state = start()
    state = state.replace(masks=type(state.masks)(ROWS))
    finetune(lambda module: seen.append(module[0].weight[:4].any().item()))(state)  # type: ignore[index]
    assert seen == [False]


def test_flags_are_those_of_the_network() -> None:
    net = toys.net().train()
    net[1].eval()
    net[3].weight.requires_grad_(False)
    seen: list[Any] = []

    def look(module: nn.Module) -> None:
        seen.append([m.training for m in module.modules()])
        seen.append([p.requires_grad for p in module.parameters()])
        module.eval()
        module.requires_grad_(False)

    after = finetune(look)(start(net))
    assert seen == [[m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]]
    module = after.module()
    assert [m.training for m in module.modules()] == seen[0]
    assert [p.requires_grad for p in module.parameters()] == seen[1]


def test_the_module_is_private_and_stays_so() -> None:
    leaked: list[nn.Module] = []
    after = finetune(lambda module: leaked.append(module))(start())
    nn.init.zeros_(leaked[0][0].weight)  # type: ignore[index]
    assert after.model["0.weight"].any()


def test_gradients_work_inside_no_grad() -> None:
    with torch.no_grad():
        after = finetune(toys.train)(start())
    assert not after.model["0.weight"].requires_grad


@pytest.mark.parametrize("returned", [lambda m: None, lambda m: m, lambda m: torch.compile(m, backend="eager")])
def test_what_may_be_returned(returned: Callable[[nn.Module], Any]) -> None:
    assert finetune(returned)(start()).metrics == start().metrics


def test_metrics_are_joined() -> None:
    word = finetune(lambda m: {"a": 1, "b": 2.0}) | finetune(lambda m: {"b": 3.0})
    assert word(start()).metrics == {"a": 1.0, "b": 3.0}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "<lambda> returned float\nhint: return None"),
        ([0.5], "<lambda> returned list"),
        (nn.Linear(1, 1), "<lambda> returned another module than it was given"),
        ({"loss": torch.tensor(0.5)}, r"\['loss'\] is a tensor of shape \(\) on cpu, expected a number\nhint: .*item"),
        ({"loss": float("nan")}, "is nan, expected a finite number"),
        ({"loss": None}, "is None"),
        ({"loss": True}, "is True"),
    ],
)
def test_what_may_not_be_returned(returned: Any, message: str) -> None:
    with pytest.raises(StageError, match=message):
        finetune(lambda m: returned)(start())


def fill(module: Any) -> None:
    nn.init.ones_(module.head.weight)


def untie(module: Any) -> None:
    module.head.weight = nn.Parameter(module.head.weight.detach().clone())


class Tied(nn.Module):
    """Embedding and head share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_ties_survive_training_and_untying_is_refused() -> None:
    after = finetune(fill)(start(Tied()))
    assert (after.model["embed.weight"] == 1).all()
    with pytest.raises(StageError, match=r"'head\.weight' is no longer tied to 'embed\.weight'"):
        finetune(untie)(start(Tied()))


def test_a_buffer_that_was_infinite_before_is_fine() -> None:
    net = toys.net()
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    finetune(toys.train)(start(net))


def test_large_finite_weights_are_finite() -> None:
    def enlarge(module: Any) -> None:
        nn.init.constant_(module.weight, 3e38)  # their sum is infinite

    assert (finetune(enlarge)(start(nn.Linear(4, 1))).model["weight"] > 2e38).all()


@pytest.mark.parametrize("bad", [3, None, "train", [toys.train]])
def test_a_function_is_expected(bad: Any) -> None:
    with pytest.raises(CompositionError, match="expected a function, got"):
        finetune(bad)


def test_the_trace_of_the_model_is_kept() -> None:
    state = start().replace(structure="trace")
    assert finetune(toys.train)(state).structure == "trace"


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["dense", "channels", "elements"])
def test_a_round_costs_little_beside_training(masks: str) -> None:
    """A function that does nothing, on ResNet-18: 50 to 130 ms on one core."""
    net = resnet18()
    given = {} if masks == "dense" else {n: p > 0 for n, p in net.named_parameters() if p.ndim == 4}
    if masks == "channels":
        given = {n: m[:, :1, :1, :1] for n, m in given.items()}
    state, word = start(net, masks=given), finetune(lambda m: None)
    word(state)
    costs = []
    for _ in range(3):
        began = time.process_time()
        word(state)
        costs.append(time.process_time() - began)
    assert min(costs) < 0.3
