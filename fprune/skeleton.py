"""Skeletons: a module's code, flags and hooks without its data, and how data and code come together again.

A skeleton is a deep copy of a module in which a twin on the meta device stands for every parameter and buffer. Because
the copy is made with the twins already in the memo, no data is copied, ties stay ties, and references to a parameter
that sit elsewhere in the module (in a list, in a hook) point to the twin too. The way back is the same copy with the
roles swapped.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fprune.equality import named_modules, named_tensors
from fprune.errors import ModelError
from fprune.intake import copied
from fprune.layers import canonical_names


def take(net: nn.Module, *, share: bool = False) -> tuple[nn.Module, dict[str, Tensor]]:
    """Separate a module from its data.

    Args:
        net: the module.
        share: whether to return its own tensors rather than copies.

    Returns:
        The skeleton, and parameters and buffers by canonical name.

    Raises:
        ModelError: The module cannot be copied.
    """
    # Outside inference mode, since what is cloned inside it can never be trained.
    with torch.inference_mode(False), torch.no_grad():
        tensors = named_tensors(net)
        memo: dict[int, Any] = {id(tensor): _like(tensor, _meta(tensor)) for tensor in tensors.values()}
        memo.update((id(stray), _clone(stray)) for stray in _computed_attributes(net))
        skeleton = copied(net, memo)
        _check_twins(tensors, named_tensors(skeleton), memo, type(net).__name__)
        names = [name for name, first in canonical_names(net).items() if name == first]
        return skeleton, {name: tensors[name].detach() if share else _clone(tensors[name]) for name in names}


def assemble(skeleton: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Build a module with copies of `values`, given by canonical name; it shares nothing with anyone."""
    with torch.inference_mode(False), torch.no_grad():
        twins = named_tensors(skeleton)
        return _filled(skeleton, {name: _like(twins[name], _clone(value)) for name, value in values.items()})


def call(
    skeleton: nn.Module,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run the skeleton's forward pass on tensors given by canonical name; gradients flow to `params`."""
    renormed = _renormed(skeleton)
    values = {name: value.clone() if name in renormed else value for name, value in params.items()}
    # functional_call lets the forward pass write into the buffers it is given, BatchNorm's statistics for one
    values.update((name, value.clone()) for name, value in buffers.items())
    if any(_hides_tensors(module) for module in skeleton.modules()):
        # functional_call swaps registered tensors only, not a parameter that also sits in a plain list
        return _filled(skeleton, values)(*args, **kwargs)
    with _unchanged(skeleton), _explained():
        return torch.func.functional_call(skeleton, values, args, kwargs, tie_weights=True, strict=True)


_VMAP = (
    (
        "Batch norm got a batched tensor",
        "a normalisation in training mode computes its statistics over a batch, which vmap takes apart",
        "call model.eval(), or vmap over something else than the samples",
    ),
    (
        "random operation while in randomness error mode",
        "the forward pass draws random numbers, such as dropout does, and vmap is not told which",
        "vmap(fn, randomness='different'), or call model.eval()",
    ),
)
"""What torch says of a model under vmap, what it means, and what to do."""


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        for said, found, hint in _VMAP:
            if said in str(error):
                raise ModelError(found, hint=hint) from error
        raise


def in_mode(skeleton: nn.Module, training: bool) -> nn.Module:
    """Copy a skeleton with every submodule in one mode; the twins have no data, so both hold the same ones."""
    return copied(skeleton, {id(twin): twin for twin in named_tensors(skeleton).values()}).train(training)


def resized(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy a skeleton with twins of the shapes and dtypes of `tensors`, given by any of their names."""
    twins = named_tensors(skeleton)
    return copied(skeleton, {id(twins[name]): _resized(twins[name], tensor) for name, tensor in tensors.items()})


def requiring_grad(skeleton: nn.Module, required: Mapping[str, bool]) -> nn.Module:
    """Copy a skeleton in which the parameters named require gradients, or do not."""
    twins = named_tensors(skeleton)
    memo = {id(twin): twin for twin in twins.values()}
    for name, flag in required.items():
        memo[id(twins[name])] = _like(twins[name], _meta(twins[name])).requires_grad_(flag)
    return copied(skeleton, memo)


def _resized(twin: Tensor, tensor: Tensor) -> Tensor:
    if twin.shape == tensor.shape and twin.dtype == tensor.dtype:
        return twin
    made = _meta(tensor)
    return nn.Parameter(made, twin.requires_grad) if isinstance(twin, nn.Parameter) else made


def _filled(skeleton: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    twins = named_tensors(skeleton)
    return copied(skeleton, {id(twins[name]): value for name, value in values.items()})


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor.detach(), device="meta")


def _like(pattern: Tensor, value: Tensor) -> Tensor:
    """Give `value` the class, the requires_grad and the attributes of `pattern`."""
    grad = pattern.requires_grad and pattern.is_leaf
    if isinstance(pattern, nn.Parameter):
        # not `type(pattern)(...)`: a subclass may have an __init__ of its own
        value = nn.Parameter.__new__(type(pattern), value, grad)
    else:
        value = value.requires_grad_(grad)
    vars(value).update(vars(pattern))
    return value


def _computed_attributes(net: nn.Module) -> Iterator[Tensor]:
    """Plain attributes that are results of a computation (`self.last = out`); torch refuses to deep-copy those."""
    for module in net.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def _check_twins(
    tensors: Mapping[str, Tensor], twins: Mapping[str, Tensor], memo: Mapping[int, Any], kind: str
) -> None:
    wrong = [name for name in {**tensors, **twins} if twins.get(name) is not memo.get(id(tensors.get(name)))]
    if wrong:
        raise ModelError(
            f"{wrong[0]!r}: copying {kind} with copy.deepcopy does not give the same parameters",
            hint="a __deepcopy__ or __setstate__ in the module makes new ones; it must pass its memo on",
        )


def _renormed(skeleton: nn.Module) -> frozenset[str]:
    """Parameters that their own forward pass writes to: `Embedding(max_norm=...)` rescales rows in place."""
    found = [path for path, module in named_modules(skeleton) if getattr(module, "max_norm", None) is not None]
    names = canonical_names(skeleton) if found else {}
    return frozenset(names[key] for path in found if (key := f"{path}.weight" if path else "weight") in names)


_OWN = ("_parameters", "_buffers", "_modules")


def _hides_tensors(module: nn.Module) -> bool:
    # RNNs keep their weights in `_flat_weights` as well, and update it when functional_call sets them
    return any(_has_meta(value) for key, value in vars(module).items() if key not in (*_OWN, "_flat_weights"))


def _has_meta(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.is_meta
    if isinstance(value, Mapping):
        return any(_has_meta(item) for item in cast("Mapping[Any, Any]", value).values())
    return isinstance(value, tuple | list | set) and any(_has_meta(item) for item in cast("Iterable[Any]", value))


@contextmanager
def _unchanged(module: nn.Module) -> Generator[None]:
    """Undo what a forward pass assigns to attributes (`self.last = out`) or items of them (`self.cache[n] = out`)."""
    settings: list[dict[Any, Any]] = []
    for child in module.modules():
        own = vars(child)
        settings.extend((own, *(own[key] for key in _OWN)))
        settings.extend(
            cast("dict[Any, Any]", value)
            for key, value in own.items()
            if type(value) is dict and not key.startswith("_")
        )
    before = [dict(values) for values in settings]
    try:
        yield
    finally:
        for values, old in zip(settings, before, strict=True):
            if values.keys() != old.keys() or any(values[key] is not value for key, value in old.items()):
                values.clear()
                values.update(old)
