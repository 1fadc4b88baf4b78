"""What a caller can see of a module and of the process, and that it stays as it is."""

import copy
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fprune.equality import named_modules, named_tensors
from fprune.errors import LawViolation
from fprune.tree import same


def visible(net: nn.Module) -> dict[str, Any]:
    """Everything a caller can see of a module: bytes, versions, flags, hooks, identities.

    Examples:
        >>> net = nn.Linear(2, 1)
        >>> before = visible(net)
        >>> with torch.no_grad():
        ...     _ = net.weight.add_(1)
        >>> [what for what, value in visible(net).items() if not same(value, before[what])]
        ['values', 'versions']

    Args:
        net: the module; only read.

    Returns:
        A dict of what to compare.
    """
    tensors, modules = named_tensors(net), dict(named_modules(net))
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "versions": {name: value._version for name, value in tensors.items()},
        "objects": {name: (id(value), value.data_ptr()) for name, value in tensors.items()},
        "grads": {name: value.grad is None for name, value in tensors.items()},
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
        "modules": {name: (id(module), type(module), module.training) for name, module in modules.items()},
        "hooks": {name: _hooks(module) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
    }


def _hooks(module: nn.Module) -> list[Any]:
    return [dict(value) for key, value in vars(module).items() if key.endswith("hooks")]


def process() -> dict[str, Any]:
    """The global state that a library could change: random generators and settings.

    Examples:
        >>> before = process()
        >>> _ = random.random()
        >>> [what for what, value in process().items() if not same(value, before[what])]
        ['the generator of random']
    """
    return {
        "the generator of torch": torch.get_rng_state(),
        "the generator of random": random.getstate(),
        "the generator of numpy": np.random.get_state(legacy=False),
        "the number of threads": torch.get_num_threads(),
        "the default dtype": torch.get_default_dtype(),
        "the grad mode": torch.is_grad_enabled(),
        "the inference mode": torch.is_inference_mode_enabled(),
    }


def disturb() -> None:
    """Draw from every global random generator.

    Examples:
        >>> from fprune.isolation import isolated
        >>> before = process()
        >>> with isolated():
        ...     disturb()
        ...     moved = changed(before, process())
        >>> len(moved), changed(before, process())
        (3, [])
    """
    for draw in (torch.rand, np.random.rand):
        draw(3)
    random.random()


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two dicts of `visible` or `process`.

    Examples:
        >>> changed({"a": 1, "b": torch.ones(1)}, {"a": 2, "b": torch.ones(1)})
        ['a']
    """
    return [what for what in before if not same(before[what], after[what])]


@contextmanager
def untouched(net: nn.Module, *values: Any) -> Generator[None]:
    """Check that a module, values and the process are as they were on the way out, also after an exception.

    Examples:
        >>> net = nn.Linear(2, 1)
        >>> with untouched(net):
        ...     torch.manual_seed(0)
        Traceback (most recent call last):
        ...
        fprune.errors.LawViolation: the generator of torch changed
        hint: what the caller owns stays as it is

    Args:
        net: the module; its bytes, flags and hooks are compared.
        values: further values, compared with a deep copy.

    Raises:
        LawViolation: something changed.
    """
    before = visible(net), process(), copy.deepcopy(values)
    try:
        yield
    finally:
        found = [f"the module's {what}" for what in changed(before[0], visible(net))]
        found += changed(before[1], process())
        found += [] if same(before[2], values) else ["an argument"]
        if found:
            raise LawViolation(
                f"{', '.join(found)} changed", hint="what the caller owns stays as it is", law="nothing changes"
            )
