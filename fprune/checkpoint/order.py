"""The order in which a tensor's dimensions lie in memory, such as channels last; sums come out otherwise in another."""

from collections.abc import Mapping

from torch import Tensor

from fprune.checkpoint.entry import damaged

__all__ = ["orders", "reordered"]

_PREFIX = "order:"


def orders(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The orders that are not the usual one, as texts for the header of a file.

    Examples:
        >>> import torch
        >>> image = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
        >>> orders({"a": image, "b": torch.zeros(2, 3)})
        {'order:a': '0,2,3,1'}
    """
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
            if tensor.permute(order).is_contiguous():  # else it has gaps or repeats, and nobody keeps those
                found[_PREFIX + name] = ",".join(map(str, order))
    return found


def reordered(tensors: Mapping[str, Tensor], texts: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """The same values, in the order that a header tells.

    Examples:
        >>> import torch
        >>> reordered({"a": torch.zeros(2, 3)}, {"order:a": "1,0"}, "state.safetensors")["a"].stride()
        (1, 2)

    Args:
        tensors: name -> tensor.
        texts: what stands in the header.
        where: the file, for errors.

    Raises:
        CheckpointError: an order is not one of the tensor's dimensions.
    """
    found = dict(tensors)
    for name in tensors:
        text = texts.get(_PREFIX + name)
        if text is not None:
            given, dims = text.split(","), range(tensors[name].ndim)
            if sorted(given) != sorted(map(str, dims)):
                raise damaged(where, f"{name[:80]!r} has {tensors[name].ndim} dimensions, and the order {text[:40]!r}")
            order = [int(dim) for dim in given]
            back = [order.index(dim) for dim in dims]
            found[name] = tensors[name].permute(order).contiguous().permute(back)
    return found
