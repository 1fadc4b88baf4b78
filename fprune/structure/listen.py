"""Hear what comes out of layers while a model runs, without hooks: the module is not touched."""

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fprune.model import Model
from fprune.structure.arguments import entries
from fprune.structure.operators import bind
from fprune.structure.uses import USES, Place, Weights

Hear = Callable[[str, Place, Tensor, Mapping[str, Any]], object]
"""Gets the name of a weight, where the units are, what came out, and the arguments of the call."""
Miss = Callable[[str, str], object]
"""Gets the name of a weight, and of an operator that reads it in another way."""


class Listening(TorchDispatchMode):
    """Calls a function with the output of every operator that uses one of some weights.

    Under inference mode operators arrive whole (`linear`, `conv2d`), with the tensors that the model was given, so a
    weight is known by its identity: in whichever module, and however often, it is used.
    """

    def __init__(self, model: Model, names: Collection[str], hear: Hear, miss: Miss) -> None:
        """Nothing heard yet."""
        super().__init__()
        every = model.params.merged(model.buffers)
        self._weights = Weights([(model[name], name) for name in names], every.values())
        self._alive: list[Tensor] = []  # what was computed from parameters: its identity must not be reused
        self._hear, self._miss = hear, miss

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let one call happen and look at it."""
        del types
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        reads = [x for x in entries((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in entries(out) if isinstance(x, Tensor)]
        computed = self._weights.computed(reads, made)
        if computed:
            self._alive.extend(made)
        touched = self._weights.touched(reads)
        if touched:
            op: str = func._schema.name.split("::")[1]
            bound = bind(func, args, kwargs)
            name = self._weights.used(op, bound)
            if name is not None:
                self._hear(name, USES[op][1], made[0], bound)
            elif not computed:
                self._miss(touched[0], op)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would wrap `__torch_dispatch__` to keep its compiler out, and import the compiler (1.5 s) to do so."""
        return False


@contextmanager
def listening(model: Model, names: Collection[str], hear: Hear, miss: Miss) -> Generator[None]:
    """Listen to the weights of a model while it is called inside the block, without gradients.

    Torch's fused transformer layers, which keep what happens inside to themselves, are off meanwhile.

    Examples:
        >>> model = Model.from_module(torch.nn.Linear(2, 1))
        >>> with listening(model, ["weight"], lambda name, place, out, bound: print(name, place, out.shape), print):
        ...     _ = model(torch.ones(3, 2))
        weight last torch.Size([3, 1])

    Args:
        model: the model that is called.
        names: weights.
        hear: called with every use.
        miss: called when a weight is used in a way that has no units.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), Listening(model, names, hear, miss):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
