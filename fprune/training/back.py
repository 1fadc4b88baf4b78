"""Take the values of a trained module back into the model it was made from, if these still are the model's tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fprune.errors import DivergenceError, StageError, close_matches
from fprune.finite import all_finite, non_finite
from fprune.masks import Masks, bits_of
from fprune.model import Model
from fprune.training.hold import zero_

__all__ = ["taken_back"]


def taken_back(before: Model, module: nn.Module, masks: Masks) -> Model:
    """The model with the module's values.

    Examples:
        >>> model = Model.from_module(nn.Linear(2, 1))
        >>> module = model.to_module()
        >>> trained = nn.init.ones_(module.weight)
        >>> taken_back(model, module, Masks({"weight": torch.tensor([[True, True]])}))["weight"]
        tensor([[1., 1.]])

    Args:
        before: the model that the module was made from.
        module: the trained module.
        masks: what has to be 0.

    Returns:
        The model, its values on the devices they were on; those that did not change are the same tensors.

    Raises:
        StageError: a tensor is gone, new, untied, of another shape or dtype, or not 0 under its mask.
        DivergenceError: a tensor is not finite any more.
    """
    params = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    known = {*before.params, *before.buffers, *before.ties}
    # Names of shared buffers other than the first are in neither mapping; the skeleton knows them.
    known |= {name for name, _ in before.skeleton.named_buffers(remove_duplicate=False)}
    added = sorted({*params, *buffers} - known)
    if added:
        raise StageError(f"'{added[0]}' was not there before", hint="training keeps the module's tensors; remove it")
    for alias, name in before.ties.items():
        found = (params.get(alias), params.get(name)) if name in params else (buffers.get(alias), buffers.get(name))
        if found[0] is not found[1]:
            raise StageError(f"'{alias}' is no longer tied to '{name}'", hint="train the module without untying it")
    return before.replace(
        params={name: _value(name, old, params, masks.get(name)) for name, old in before.params.items()},
        buffers={name: _value(name, old, buffers, None) for name, old in before.buffers.items()},
    )


def _value(name: str, old: Tensor, after: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
    """One tensor's new value, on the device it was on; refused when it is not the same kind of tensor any more."""
    if name not in after:
        raise StageError(f"'{name}' is gone", hint=close_matches(name, after) or "training keeps the module's tensors")
    new = after[name].detach()
    if new.shape != old.shape or new.dtype != old.dtype:
        raise StageError(
            f"'{name}' is {_kind(new)}, expected {_kind(old)}",
            hint="train the module as it is; a cast for training is undone before returning",
        )
    if new.device == old.device and torch.equal(new, old):  # as it was, so it is finite, zero under its mask, and ours
        return old
    # The function may have kept the module, so its memory is not ours to hold on to.
    new = new.to(old.device, copy=True)
    if not all_finite(new) and all_finite(old):
        raise DivergenceError(
            f"'{name}' has {non_finite(new)} after training, and had none before",
            hint="training diverged: lower the learning rate, or clip the gradients; finetune(fn, "
            "on_diverge='rollback') goes on without the training",
        )
    if mask is not None:
        set_bits = _set_bits(new)
        zero_(new, mask)
        if _set_bits(new) != set_bits:
            _refuse_regrown(name, after[name].detach(), new)
    return new


def _set_bits(tensor: Tensor) -> int:
    """How many numbers have a bit set: all but the zeros, and quick to count."""
    bits = bits_of(tensor)
    return int((tensor if bits is None else bits).count_nonzero())


def _refuse_regrown(name: str, trained: Tensor, zeroed: Tensor) -> None:
    regrown = (trained != 0) & (zeroed.to(trained.device) == 0)
    if regrown.any():
        first = tuple(int(i) for i in regrown.nonzero()[0])
        raise StageError(
            f"'{name}' has {int(regrown.count_nonzero())} pruned weights that are not zero (first at {first})",
            hint="step with a torch.optim optimizer, after whose steps they are set to zero, and write to parameters "
            "in no other way",
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
