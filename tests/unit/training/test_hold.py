"""`hold` keeps pruned weights at exactly zero under any optimizer, and is gone afterwards."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fprune.errors import ModelError
from fprune.masks import Masks
from fprune.training import hold
from fprune.training.hold import zero_
from tests.unit import toys

MASKS = Masks(
    {
        "0.weight": torch.arange(8)[:, None] % 2 == 0,  # rows
        "0.bias": torch.arange(8) % 2 == 0,
        "3.weight": torch.arange(32).reshape(4, 8) % 3 > 0,  # elements
    }
)

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.01),
    "momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "momentum foreach": lambda p: SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "momentum fused": lambda p: SGD(p, lr=0.01, momentum=0.9, fused=True),
    "adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw foreach": lambda p: AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=3),
}


def pruned(module: nn.Module, masks: Masks = MASKS) -> torch.Tensor:
    """Every weight that the masks remove."""
    named = dict(module.named_parameters())
    return torch.cat([named[n].detach().masked_select(~m.expand_as(named[n])).double() for n, m in masks.items()])


def exact_zero(values: torch.Tensor) -> bool:
    return bool((values == 0).all()) and not bool(torch.signbit(values).any())


def steps(module: nn.Module, optimizer: Optimizer, count: int = 3) -> list[bool]:
    """Train, and tell after each step whether the pruned weights are zero."""
    after = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (module(toys.X) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(count):
        optimizer.step(closure)
        after.append(bool((pruned(module) == 0).all()))
    return after


@pytest.mark.parametrize("by", ["global", "given"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero(name: str, by: str) -> None:
    module = toys.net()
    optimizer = OPTIMIZERS[name](module.parameters())
    steps(module, optimizer, 1)  # momentum and moments from before, which push pruned weights away from zero
    before = module[0].weight.detach().clone()
    with hold(module, MASKS, optimizer if by == "given" else None):
        assert exact_zero(pruned(module))
        assert steps(module, optimizer) == [True] * 3
    assert exact_zero(pruned(module))
    assert not torch.equal(module[0].weight[::2], before[::2]), "what is kept is trained"


@pytest.mark.parametrize("scale", [2.0**8, float("inf")])
def test_grad_scaler(scale: float) -> None:
    module = toys.net()
    optimizer = AdamW(module.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with hold(module, MASKS):
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(module(toys.X).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            assert bool((pruned(module) == 0).all())
    assert exact_zero(pruned(module))


def test_trained_values_are_those_of_projected_descent() -> None:
    """Against the loop written out: step, then set to zero."""
    one, other = toys.net(), toys.net()
    sgd, adam = SGD(one.parameters(), lr=0.01, momentum=0.9), SGD(other.parameters(), lr=0.01, momentum=0.9)
    with hold(one, MASKS):
        steps(one, sgd)
    named = dict(other.named_parameters())
    with torch.no_grad():
        for name, mask in MASKS.items():
            named[name].copy_(torch.where(mask, named[name], 0.0))
    for _ in range(3):
        steps(other, adam, 1)
        with torch.no_grad():
            for name, mask in MASKS.items():
                named[name].copy_(torch.where(mask, named[name], 0.0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_nan_and_negative_zero_under_a_mask_become_zero() -> None:
    module = nn.Linear(2, 2, bias=False)
    nn.init.constant_(module.weight, float("nan"))
    with hold(module, {"weight": torch.tensor([[False, True], [True, True]])}):
        assert module.weight[0, 0] == 0
        assert module.weight.isnan().sum() == 3
        with torch.no_grad():
            module.weight[0, 0] = -0.0
    assert exact_zero(module.weight[0, :1])


@pytest.mark.parametrize("fails", [False, True])
def test_the_hook_is_removed(fails: bool) -> None:
    module = toys.net()
    sgd = SGD(module.parameters(), lr=0.01)
    before = copy.deepcopy(sgd.__dict__.get("_optimizer_step_post_hooks"))
    for optimizer in (None, sgd):
        try:
            with hold(module, MASKS, optimizer):
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        assert exact_zero(pruned(module))
    steps(module, sgd)
    assert not (pruned(module) == 0).all(), "after the block pruned weights are trained like any others"
    assert sgd.__dict__.get("_optimizer_step_post_hooks") == before


def test_only_the_given_optimizer_is_followed() -> None:
    module = toys.net()
    first, second = SGD(module.parameters(), lr=0.01), SGD(module.parameters(), lr=0.01)
    with hold(module, MASKS, first):
        assert steps(module, second, 1) == [False]
        assert steps(module, first, 1) == [True]


def test_blocks_nest() -> None:
    module, more = toys.net(), Masks({"3.bias": torch.arange(4) > 0})
    with hold(module, MASKS), hold(module, more):
        steps(module, SGD(module.parameters(), lr=0.01))
    assert exact_zero(pruned(module))
    assert exact_zero(pruned(module, more))


def test_a_trainer_may_move_and_cast_the_module() -> None:
    module = toys.net()
    with hold(module, MASKS):
        steps(module, SGD(module.parameters(), lr=0.01), 1)
        module.to(torch.bfloat16)
        optimizer = SGD(module.parameters(), lr=0.01)
        module(toys.X.bfloat16()).sum().backward()
        optimizer.step()
        assert bool((pruned(module) == 0).all())
        module.to(torch.float64)
    assert exact_zero(pruned(module))


def test_a_compiled_module_is_held() -> None:
    module = toys.net()
    compiled: Any = torch.compile(module, backend="eager")
    with hold(compiled, MASKS):
        module(toys.X).sum().backward()
        SGD(compiled.parameters(), lr=0.01).step()
    assert exact_zero(pruned(module))


def test_names_and_shapes_are_checked() -> None:
    with (
        pytest.raises(ModelError, match=r"0\.wieght.*\nhint: .*0\.weight"),
        hold(toys.net(), {"0.wieght": torch.ones(1, dtype=torch.bool)}),
    ):
        pass
    with (
        pytest.raises(ModelError, match=r"0\.weight"),
        hold(toys.net(), {"0.weight": torch.ones(5, 6, dtype=torch.bool)}),
    ):
        pass


def test_masks_of_the_caller_stay_as_they_are() -> None:
    mine = {name: mask.clone() for name, mask in MASKS.items()}
    module = toys.net()
    with hold(module, mine):
        steps(module, SGD(module.parameters(), lr=0.01))
    assert Masks(mine) == MASKS


DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn
]  # fmt: skip


@given(st.sampled_from(DTYPES), st.lists(st.booleans(), min_size=1, max_size=9), st.booleans())
def test_zeroing_is_exact_in_every_dtype(dtype: torch.dtype, kept: list[bool], negative: bool) -> None:
    mask = torch.tensor(kept)
    tensor = torch.full(
        (2, len(kept)),
        -1.5 if negative else float("nan"),
        dtype=torch.complex128 if dtype.is_complex else torch.float64,
    )
    tensor = tensor.to(dtype)
    before = tensor.clone()
    zero_(tensor, mask)

    def as_bytes(t: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(t) if t.is_complex() else t

    assert not as_bytes(tensor)[:, ~mask].view(torch.uint8).any()
    assert torch.equal(as_bytes(tensor)[:, mask].view(torch.uint8), as_bytes(before)[:, mask].view(torch.uint8))
