"""Isolation restores what a function may change, and seeds what it may draw from."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fprune.isolation import isolated

CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "torch generator": (lambda: torch.get_rng_state().tolist(), lambda: torch.rand(1)),
    "torch seed": (torch.initial_seed, lambda: torch.manual_seed(5)),
    "random": (random.getstate, random.random),
    "numpy": (lambda: str(np.random.get_state()), lambda: np.random.rand(3)),
    "grad mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "default dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "default device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(3)),
    "matmul precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("medium")),
    "determinism": (torch.are_deterministic_algorithms_enabled, lambda: torch.use_deterministic_algorithms(True)),
    "determinism, warn only": (
        torch.is_deterministic_algorithms_warn_only_enabled,
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "cudnn benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda: torch.backends.cudnn.set_flags(_benchmark=True, _fp32_precision=None),
    ),
    "onednn": (
        lambda: torch.backends.mkldnn.enabled,
        lambda: torch.backends.mkldnn.set_flags(False, _fp32_precision=None),
    ),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
    "autocast dtype": (
        lambda: torch.get_autocast_dtype("cpu"),
        lambda: torch.set_autocast_dtype("cpu", torch.float16),
    ),
    "anomaly detection": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
}


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_it_comes_back(what: str, fails: bool, seed: int | None) -> None:
    read, change = CHANGES[what]
    before = read()
    try:
        with isolated(seed):
            inside = read()
            change()
            assert read() != inside, "the change has to be one"
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert read() == before


def draw() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.rand())]


def test_a_seed_sets_every_generator() -> None:
    with isolated(2**63 - 1):
        one = draw()
    with isolated(2**63 - 1):
        same = draw()
    with isolated(3):
        other = draw()
    assert one == same
    assert not set(one) & set(other)


def test_without_a_seed_the_generators_run_on_from_where_they_are() -> None:
    with isolated():
        inside = draw()
    assert draw() == inside


def test_it_nests() -> None:
    with isolated(1):
        first = draw()
        with isolated(2):
            draw()
        second = draw()
    with isolated(1):
        assert (draw(), draw()) == (first, second)
