"""Keep pruned weights at zero while any training loop steps any optimizer."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from fprune.intake import unwrapped
from fprune.masks import Masks, bits_of


@contextmanager
def hold(module: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer | None = None) -> Generator[None]:
    """Set masked weights to zero, and again after every optimizer step, until the `with` block ends.

    w <- where(mask, w, 0), so that a NaN or a negative zero under a mask is 0 as well. Gradients, momentum and other
    optimizer state are left as they are.

    Examples:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> with hold(layer, masks):
        ...     layer(torch.ones(3, 2)).sum().backward()
        ...     sgd.step()
        >>> layer.weight[0, 1].item()
        0.0

    Args:
        module: the module that is trained, changed in place; wrapped by `torch.compile` or
            DistributedDataParallel is fine.
        masks: parameter name -> bool tensor that broadcasts to it; True is kept.
        optimizer: whose steps to follow; by default those of every optimizer in the process, for trainers that make
            their own.

    Raises:
        ModelError: a mask names no parameter, or does not fit it.
    """
    held = Masks(masks)
    inner = unwrapped(module)
    held.check(dict(inner.named_parameters(remove_duplicate=False)))
    zero_pruned(inner, held)
    try:
        with zero_after_steps(inner, held, optimizer):
            yield
    finally:
        zero_pruned(inner, held)


@contextmanager
def zero_after_steps(module: nn.Module, masks: Masks, optimizer: Optimizer | None = None) -> Generator[None]:
    """The part of `hold` between the way in and the way out."""
    named = dict(module.named_parameters(remove_duplicate=False))
    params = [(name, named[name]) for name in masks]
    kept: dict[str, Tensor] = {}

    def after_step(*_: object) -> None:
        for name, param in params:
            bits = bits_of(param)
            if bits is None:
                zero_(param, masks[name])
                continue
            ones = kept.get(name)
            # a trainer may move the module to another device or dtype after the block was entered
            if ones is None or (ones.device, ones.dtype) != (bits.device, bits.dtype):
                ones = kept[name] = masks[name].to(bits.device, bits.dtype).neg_()
            bits.bitwise_and_(ones)

    following = register_optimizer_step_post_hook if optimizer is None else optimizer.register_step_post_hook
    handle = following(after_step)
    try:
        yield
    finally:
        handle.remove()


def zero_pruned(module: nn.Module, masks: Masks) -> None:
    """Zero in place what is masked in the parameters the module has now; a trainer may have put others in place."""
    for name, param in module.named_parameters(remove_duplicate=False):
        if name in masks and all(
            have in (1, want) for have, want in zip(reversed(masks[name].shape), reversed(param.shape), strict=False)
        ):
            zero_(param, masks[name])


def zero_(tensor: Tensor, mask: Tensor) -> None:
    """Set what is not kept to exactly 0, in place and whatever was there.

    The bits of a number times 0 are those of 0, also for a NaN and for a negative number, and times 1 they are
    unchanged; on one core this takes a third of the time of `where`.

    Examples:
        >>> import torch
        >>> tensor = torch.tensor([float("nan"), -1.0, 2.0])
        >>> zero_(tensor, torch.tensor([False, False, True]))
        >>> tensor
        tensor([0., 0., 2.])
    """
    mask, bits = mask.to(tensor.device), bits_of(tensor)
    if bits is None:
        tensor.detach().masked_fill_(~mask, 0)
    else:
        bits.mul_(mask)
