"""User's functions that misbehave: they change what the process shares, spoil what they are shown, then end somehow."""

import random as python_random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn


class Broken(ValueError):
    """The error of a user's function."""


CHANGES: Mapping[str, Callable[[], object]] = {
    "draws": lambda: (torch.rand(3), python_random.random(), np.random.rand()),
    "torch.manual_seed": lambda: torch.manual_seed(99),
    "random.seed": lambda: python_random.seed(99),
    "numpy.random.seed": lambda: np.random.seed(99),
    "set_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "set_default_device": lambda: torch.set_default_device("meta"),
    "set_grad_enabled": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cudnn.deterministic": lambda: torch.backends.cudnn.set_flags(
        _benchmark=True, _deterministic=True, _fp32_precision=None
    ),
    "set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "set_autocast_enabled": lambda: torch.set_autocast_enabled("cpu", True),
    "set_autocast_dtype": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "set_flags of mkldnn": lambda: torch.backends.mkldnn.set_flags(False, _fp32_precision=None),
}
"""What a function may change of the process, each by itself."""

ERRORS: tuple[type[BaseException], ...] = (Broken, KeyboardInterrupt, SystemExit)
RUBBISH: Mapping[str, Any] = {
    "nothing": None,
    "a text": "0.5",
    "NaN": float("nan"),
    "a tensor of NaN": torch.tensor(float("nan")),
    "an object": object,
    "a tensor without gradient": torch.ones(()),
    "a list": [1, 2],
}


@attrs.frozen
class Fault:
    """What a function does wrong, at which of its calls.

    Args:
        changes: names of `CHANGES`.
        spoils: whether it overwrites the parameters of the module it is given to train, and its gradients.
        error: what it raises, or none.
        rubbish: the name of what it returns, or none: what it should.
        at: the call, from 0; before it everything is as it should be.
    """

    changes: tuple[str, ...] = ()
    spoils: bool = False
    error: type[BaseException] | None = None
    rubbish: str | None = None
    at: int = 0


faults: st.SearchStrategy[Fault] = st.builds(
    Fault,
    st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True).map(tuple),
    st.booleans(),
    st.one_of(st.none(), st.sampled_from(ERRORS)),
    st.one_of(st.none(), st.sampled_from(sorted(RUBBISH))),
    st.integers(0, 2),
)


class Faulty:
    """A user's function with a fault."""

    def __init__(self, fn: Callable[..., Any], fault: Fault) -> None:
        self.fn, self.fault, self.calls = fn, fault, 0
        self.__name__ = "faulty"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.fault.at:
            return self.fn(*args, **kwargs)
        misbehave(self.fault, args)
        return self.fn(*args, **kwargs) if self.fault.rubbish is None else RUBBISH[self.fault.rubbish]


class FaultyBatches:
    """Batches whose reading misbehaves at one of them."""

    def __init__(self, batches: Sequence[Any], fault: Fault) -> None:
        self.batches, self.fault = batches, fault

    def __iter__(self) -> Iterator[Any]:
        for at, batch in enumerate(self.batches):
            if at == min(self.fault.at, len(self.batches) - 1):
                misbehave(self.fault, ())
                yield batch if self.fault.rubbish is None else RUBBISH[self.fault.rubbish]
            else:
                yield batch


def misbehave(fault: Fault, shown: tuple[Any, ...]) -> None:
    """Change what the fault says, and raise its error."""
    for module in shown if fault.spoils else ():
        if isinstance(module, nn.Module):
            spoil(module)
    for change in fault.changes:
        CHANGES[change]()
    if fault.error is not None:
        raise fault.error("no")


def spoil(module: nn.Module) -> None:
    """Overwrite everything of a module that was given away to be trained."""
    module.train(not module.training)
    for value in (*module.parameters(), *module.buffers()):
        value.data.zero_()
        if value.is_leaf and value.is_floating_point():
            value.requires_grad_(not value.requires_grad)
            value.grad = None
    module.register_forward_hook(lambda *_: None)


def faulty(given: Any, fault: Fault) -> Any:
    """A function, or batches, with a fault."""
    return FaultyBatches(given, fault) if isinstance(given, list | tuple) else Faulty(given, fault)
