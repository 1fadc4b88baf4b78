"""What a forward pass returned: its tensors, and which of them the user wants preserved."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor
from torch.utils import _pytree as pytree  # the same flattening as torch.export: knows the outputs of model libraries

from fprune.errors import ConfigError
from fprune.inputs import Selector


def leaves(output: Any) -> list[Tensor]:
    """The tensors of whatever a forward pass returned, in order."""
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


def positions(select: Selector, returned: Any) -> tuple[int, ...]:
    """Where the tensors that a selector picks stand among those that were returned.

    Positions hold for every form of the model, also one that returns a plain dict in place of a class of its own.

    Args:
        select: the user's `outputs=`.
        returned: what a forward pass returned.

    Returns:
        Positions in `leaves(returned)`, ascending.

    Raises:
        ConfigError: the selector fails, or picks something that is not one of the tensors returned.
    """
    try:
        picked = leaves(select(returned))
    except Exception as error:
        raise ConfigError(
            f"outputs: the function fails on what the forward pass returns: {type(error).__name__}: {error}",
            hint=_told(returned),
        ) from error
    places: dict[int, list[int]] = {}
    for position, tensor in enumerate(leaves(returned)):
        places.setdefault(id(tensor), []).append(position)
    if not picked or any(id(tensor) not in places for tensor in picked):
        what = "no tensor" if not picked else "a tensor that the forward pass does not return"
        raise ConfigError(
            f"outputs: the function gives {what}",
            hint=f"pick whole outputs, without computing on them; {_told(returned)}",
        )
    return tuple(sorted({position for tensor in picked for position in places[id(tensor)]}))


def _told(returned: Any) -> str:
    """What there is to pick from, in words."""
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"it returns a {kind} of {', '.join(map(str, cast('Mapping[Any, Any]', returned)))}"
    if isinstance(returned, Tensor):
        return "it returns one tensor, and outputs= is not needed"
    return f"it returns a {kind} with {len(leaves(returned))} tensors"
