"""Strategies for plain mappings of names to weights, and for masks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fprune.masks import Masks
from fprune.strategies.hypothesis import st

_NAMES = ("a", "m10", "m2", "block.0", "z")
_shapes = st.one_of(
    st.tuples(st.integers(2, 5), st.integers(1, 4)), st.tuples(st.integers(2, 5), st.integers(1, 3), st.just(2))
)


def tensors(shape: Sequence[int], *, spread: int = 3, dtype: torch.dtype = torch.float32) -> st.SearchStrategy[Tensor]:
    """Generate tensors of one shape with small integers as values, which shrink to zeros.

    Examples:
        >>> from hypothesis import find
        >>> find(tensors((2, 2)), lambda t: t.max() > 1)
        tensor([[0., 0.],
                [0., 2.]])

    Args:
        shape: of the tensor.
        spread: the largest value.
        dtype: of the tensor.

    Returns:
        A strategy.
    """
    size = torch.Size(shape)
    order = [0, *(sign * value for value in range(1, spread + 1) for sign in (1, -1))]

    def tensor(drawn: bytes) -> Tensor:
        return torch.tensor([order[byte % len(order)] for byte in drawn], dtype=dtype).reshape(size)

    # One draw of bytes takes a tenth of the time that as many draws of integers take.
    return st.binary(min_size=size.numel(), max_size=size.numel()).map(tensor)


@st.composite
def _params(
    draw: st.DrawFn, spread: int, dtype: torch.dtype, most: int, shapes: Mapping[str, Sequence[int]] | None
) -> dict[str, Tensor]:
    if shapes is None:
        names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=most, unique=True))
        found = {f"{name}.weight": draw(_shapes) for name in names}
        found |= {f"{name}.bias": found[f"{name}.weight"][:1] for name in names if draw(st.booleans())}
    else:
        found = dict(shapes)
    return {name: draw(tensors(shape, spread=spread, dtype=dtype)) for name, shape in found.items()}


def params(
    *,
    max_tensors: int = 3,
    shapes: Mapping[str, Sequence[int]] | None = None,
    spread: int = 3,
    dtype: torch.dtype = torch.float32,
) -> st.SearchStrategy[dict[str, Tensor]]:
    """Generate plain mappings of names to weights, as pruners take them: small integers, in no order of names.

    Examples:
        >>> from hypothesis import find
        >>> find(params(shapes={"a.weight": (2, 1)}), lambda p: p["a.weight"].sum() > 1)
        {'a.weight': tensor([[0.],
                [2.]])}

    Args:
        max_tensors: how many weights there are at most; some have a bias.
        shapes: name -> shape, in place of drawn ones.
        spread: the largest value.
        dtype: of the tensors.

    Returns:
        A strategy.
    """
    return _params(spread, dtype, max_tensors, shapes)


@st.composite
def _masks(draw: st.DrawFn, of: Mapping[str, Tensor] | None) -> Masks:
    of = draw(params()) if of is None else of
    found: dict[str, Tensor] = {}
    for name, value in of.items():
        kind = draw(st.sampled_from(["dense", "units", "elements"]))
        if kind == "dense" or not value.numel():
            continue
        shape = (value.shape[0], *[1] * (value.ndim - 1)) if kind == "units" else tuple(value.shape)
        size = torch.Size(shape).numel()
        gone = draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
        found[name] = torch.tensor([index not in gone for index in range(size)]).reshape(shape)
    return Masks(found)


def masks(of: Mapping[str, Tensor] | None = None) -> st.SearchStrategy[Masks]:
    """Generate masks that leave something of every tensor: dense, of whole output units, or of single elements.

    Examples:
        >>> from hypothesis import find
        >>> find(masks({"w": torch.ones(3, 2)}), lambda found: found.sparsity({"w": torch.ones(3, 2)}) > 0)
        Masks(w=1/3 channels)

    Args:
        of: the parameters they are for, a mapping or a `Model`; drawn ones by default.

    Returns:
        A strategy.
    """
    return _masks(of)
