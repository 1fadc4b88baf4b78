"""What a caller can see of a module and of the process, and that it stays as it is."""

import copy
import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fprune.tree import same


def bytes_of(net: nn.Module) -> dict[str, Any]:
    """Everything a caller can see of a module: bytes, versions, flags, hooks, identities."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "versions": {name: value._version for name, value in tensors.items()},
        "objects": {name: (id(value), value.data_ptr()) for name, value in tensors.items()},
        "grads": {name: value.grad is None for name, value in tensors.items()},
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
        "modules": {name: (id(m), type(m), m.training) for name, m in net.named_modules()},
        "hooks": {
            name: [dict(v) for k, v in vars(m).items() if k.endswith("hooks")] for name, m in net.named_modules()
        },
        "attributes": {name: sorted(vars(m)) for name, m in net.named_modules()},
    }


def globals_of_process() -> tuple[Any, ...]:
    return (
        torch.get_rng_state(),
        python_random.getstate(),
        [np.asarray(part) for part in np.random.get_state()[1:]],
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@contextmanager
def untouched(net: nn.Module, *values: Any) -> Iterator[None]:
    """The network, these values and the process's global state are the same bytes afterwards, also after an error."""
    before = bytes_of(net), globals_of_process(), copy.deepcopy(values)
    try:
        yield
    finally:
        after = bytes_of(net), globals_of_process(), values
        for name in before[0]:
            assert same(before[0][name], after[0][name]), f"the caller's module changed: {name}"
        assert same(before[1], after[1]), "a random generator, the thread count, the dtype or the grad mode changed"
        assert same(before[2], after[2]), "an argument changed"
