"""A penalty counts once for each optimizer step, whatever the loop around it does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim import optimizer as hooks

from fprune.training.penalty import penalised

X = torch.arange(8.0).reshape(4, 2) - 3


def layer() -> nn.Linear:
    made = nn.Linear(2, 1)
    nn.init.constant_(made.weight, 2.0)
    nn.init.zeros_(made.bias)
    return made


def slope(weight: Tensor) -> Tensor:
    return 0.5 * weight


def loss(net: nn.Module) -> Tensor:
    return net(X).square().mean()


def total(net: nn.Linear) -> Tensor:
    """The loss with the penalty that has this slope, as one expression."""
    return loss(net) + 0.25 * net.weight.square().sum()


def with_closure(make: Callable[[Any], Optimizer], net: nn.Linear, value: Callable[[nn.Linear], Tensor]) -> None:
    optimizer = make(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = value(net)
        found.backward()
        return found

    for keyword in (False, True, False):
        optimizer.step(closure=closure) if keyword else optimizer.step(closure)


CLOSURES: list[Callable[[Any], Optimizer]] = [
    partial(SGD, lr=0.1, momentum=0.5),
    partial(torch.optim.LBFGS, lr=0.1, max_iter=3),
]


@pytest.mark.parametrize("make", CLOSURES)
def test_it_is_added_after_the_backward_of_a_closure(make: Callable[[Any], Optimizer]) -> None:
    ours, theirs = layer(), layer()
    with penalised(ours, {"weight": slope}):
        with_closure(make, ours, loss)
    with_closure(make, theirs, total)
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


class Around(Optimizer):
    """An optimizer that steps another one, as averaging and look-ahead ones do."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.inner.step()


def test_an_optimizer_around_another_counts_once() -> None:
    net = layer()
    with penalised(net, {"weight": slope}):
        outer = Around(SGD(net.parameters(), lr=1.0))
        for expected in (1.0, 0.5, 0.25):
            outer.zero_grad()
            outer.step()
            assert net.weight.tolist() == [[expected] * 2]


def test_a_step_that_failed_and_was_caught_does_not_end_the_penalty() -> None:
    net = layer()
    sgd = SGD(net.parameters(), lr=1.0)

    def fails() -> Tensor:
        raise RuntimeError("out of memory")

    with penalised(net, {"weight": slope}):
        with pytest.raises(RuntimeError, match="out of memory"):
            sgd.step(fails)
        sgd.step()
    assert net.weight.tolist() == [[1.0, 1.0]]


def test_parameters_without_a_gradient_and_frozen_ones() -> None:
    net = layer()
    net.bias.requires_grad_(False)
    with penalised(net, {"weight": slope, "bias": torch.ones_like}):
        SGD(net.parameters(), lr=1.0).step()
    assert net.weight.tolist() == [[1.0, 1.0]]
    assert net.bias.item() == 0
    assert net.bias.grad is None


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients(fused: bool) -> None:
    ours, theirs = layer(), layer()
    for net, value in ((ours, loss), (theirs, total)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        sgd = SGD(net.parameters(), lr=0.1, fused=fused)
        with penalised(net, {"weight": slope} if net is ours else {}):
            for _ in range(3):
                sgd.zero_grad()
                scaler.scale(value(net)).backward()
                scaler.step(sgd)
                scaler.update()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_two_optimizers_and_those_of_others() -> None:
    net, other = nn.Sequential(layer(), layer()), layer()
    with penalised(net, {"0.weight": slope, "1.weight": slope}):
        for part in (net[0], net[1], other):
            SGD(part.parameters(), lr=1.0).step()
    assert (net[0].weight.tolist(), net[1].weight.tolist(), other.weight.tolist()) == (
        [[1.0, 1.0]],
        [[1.0, 1.0]],
        [[2.0, 2.0]],
    )


def test_a_module_that_moves_is_followed() -> None:
    net = layer()
    with penalised(net, {"weight": slope}):
        net.double()
        SGD(net.parameters(), lr=1.0).step()
    assert net.weight.dtype == torch.float64
    assert net.weight.tolist() == [[1.0, 1.0]]


def test_nothing_listens_afterwards() -> None:
    net = layer()
    with pytest.raises(ValueError, match="mine"), penalised(net, {"weight": slope}):
        raise ValueError("mine")
    SGD(net.parameters(), lr=1.0).step()
    assert net.weight.tolist() == [[2.0, 2.0]]
    assert not hooks._global_optimizer_pre_hooks
    assert not hooks._global_optimizer_post_hooks
