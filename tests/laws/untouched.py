"""What a caller can see of a module and of the process, and that it stays as it is."""

import copy
import gc
import os
import random as python_random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from torch.utils import _python_dispatch

from fprune.isolation import settings
from fprune.tree import same

_REGISTRIES = [
    (home, name)
    for home in (torch_module, torch_optimizer)
    for name in sorted(vars(home))
    if name.startswith("_global_") and isinstance(vars(home)[name], dict)
]
"""Hooks of all modules and of all optimizers."""


def bytes_of(net: nn.Module) -> dict[str, Any]:
    """Everything a caller can see of a module: bytes, versions, flags, gradients, hooks, identities."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    modules = dict(net.named_modules())
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "versions": {name: -1 if value.is_inference() else value._version for name, value in tensors.items()},
        "objects": {name: (id(value), value.data_ptr()) for name, value in tensors.items()},
        "gradients": {
            name: (id(value.grad), None if value.grad is None else value.grad.clone())
            for name, value in tensors.items()
            if value.is_leaf
        },
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
        "tensor hooks": {name: dict(value._backward_hooks or {}) for name, value in tensors.items()},
        "modules": {name: (id(m), type(m), m.training) for name, m in modules.items()},
        "hooks": {name: [dict(v) for k, v in vars(m).items() if k.endswith("hooks")] for name, m in modules.items()},
        "attributes": {name: {key: id(value) for key, value in vars(m).items()} for name, m in modules.items()},
        "plain attributes": {
            name: {k: v for k, v in vars(m).items() if isinstance(v, bool | int | float | str)}
            for name, m in modules.items()
        },
    }


def globals_of_process() -> dict[str, Any]:
    """What every part of a process shares, as far as a library or a user's function could change it."""
    return {
        "torch's generator": torch.get_rng_state(),
        "torch's seed": torch.initial_seed(),
        "python's generator": python_random.getstate(),
        "numpy's generator": [np.asarray(part) for part in np.random.get_state()[1:]],
        "settings": settings(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu"))),
        "anomaly detection": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "dispatch modes": len(_python_dispatch._get_current_dispatch_mode_stack()),
        "global hooks": {f"{home.__name__}.{name}": dict(vars(home)[name]) for home, name in _REGISTRIES},
        "warnings": list(warnings.filters),
        "numpy's errors": np.geterr(),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@contextmanager
def untouched(net: nn.Module, *values: Any) -> Iterator[None]:
    """The network, these values and the process's global state are the same bytes afterwards, also after an error."""
    before = bytes_of(net), globals_of_process(), copy.deepcopy(values)
    try:
        yield
    finally:
        after = bytes_of(net), globals_of_process(), values
        for what in before[0]:
            assert same(before[0][what], after[0][what]), f"the caller's module changed: {what}"
        for what in before[1]:
            assert same(before[1][what], after[1][what]), f"the process changed: {what}"
        assert same(before[2], after[2]), "an argument changed"
