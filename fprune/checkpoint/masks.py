"""Masks with eight elements to a byte."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fprune.checkpoint.entry import Entry
from fprune.masks import Masks

__all__ = ["packed_masks", "unpacked_masks"]


def packed_masks(masks: Masks, prefix: str) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """The shapes of masks by name, and their bits as tensors of bytes by prefixed name.

    Examples:
        >>> shapes, bits = packed_masks(Masks({"w": torch.tensor([[True], [False], [True]])}), "masks")
        >>> shapes, bits
        ({'w': [3, 1]}, {'masks/w': tensor([160], dtype=torch.uint8)})

    Args:
        masks: the masks.
        prefix: what the names of the tensors begin with.
    """
    bits = {
        f"{prefix}/{name}": torch.from_numpy(np.packbits(mask.detach().cpu().contiguous().numpy()))
        for name, mask in masks.items()
    }
    return {name: list(mask.shape) for name, mask in masks.items()}, bits


def unpacked_masks(
    shapes: Entry, tensors: Mapping[str, Tensor], prefix: str, device: Mapping[str, torch.device]
) -> Masks:
    """The masks again.

    Args:
        shapes: by name, read from a file.
        tensors: what the file of tensors holds.
        prefix: as they were packed.
        device: where each of them belongs; the CPU for other names.

    Raises:
        CheckpointError: a shape does not fit its bits.
    """
    found: dict[str, Tensor] = {}
    for name, entry in shapes.items():
        shape, bits = entry.each(lambda size: size.integer(0, 2**48)), tensors.get(f"{prefix}/{name}")
        size = torch.Size(shape).numel()
        if bits is None or bits.dtype != torch.uint8 or tuple(bits.shape) != ((size + 7) // 8,):
            entry.refuse(f"the bits of a mask of shape {shape} are not in the file of tensors")
        flat = np.unpackbits(bits.numpy(), count=size).astype(bool)
        found[name] = torch.from_numpy(flat).reshape(shape).to(device.get(name, torch.device("cpu")))
    return Masks(found)
