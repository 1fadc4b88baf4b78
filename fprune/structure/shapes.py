"""Output shapes of a few operators whose kernels for the meta device are Python decompositions.

Running one of those imports torch's compiler or sympy, up to 2 seconds the first time, for a line of shape arithmetic.
A test compares every entry with what the operator itself gives.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from fprune.structure.graph import Shape

ShapeOf: TypeAlias = Callable[[Shape, Mapping[str, Any]], Shape]


def _same(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    return shape


def _pooled(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    size = tuple(bound["output_size"])
    return (*shape[: -len(size)], *size)


def _mean(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    dim = bound.get("dim")
    given: list[int] = list(range(len(shape))) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    dims = {d % len(shape) for d in given} if shape else set[int]()
    kept = 1 if bound.get("keepdim") else None
    return tuple(n for d, size in enumerate(shape) if (n := kept if d in dims else size) is not None)


def _linear(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    _fits(shape[-1], bound["weight"].shape[1])
    return (*shape[:-1], bound["weight"].shape[0])


def _conv(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    kernel, padding = bound["weight"].shape[2:], bound["padding"]
    lead = shape[: -len(kernel) - 1]
    _fits(shape[-len(kernel) - 1], bound["weight"].shape[1] * bound["groups"])
    out: list[int] = []
    for d, (n, k) in enumerate(zip(shape[-len(kernel) :], kernel, strict=True)):
        reach = _at(bound["dilation"], d) * (k - 1)
        around = (reach if padding == "same" else 0) if isinstance(padding, str) else 2 * _at(padding, d)
        out.append((n + around - reach - 1) // _at(bound["stride"], d) + 1)
    return (*lead, bound["weight"].shape[0], *out)


def _max_pool(spatial: int, shape: Shape, bound: Mapping[str, Any]) -> Shape:
    out: list[int] = []
    for d, n in enumerate(shape[-spatial:]):
        kernel, padding = _at(bound["kernel_size"], d), _at(bound["padding"], d)
        stride = _at(bound["stride"] or bound["kernel_size"], d)
        reach = n + 2 * padding - _at(bound["dilation"], d) * (kernel - 1) - 1
        size = (reach + (stride - 1 if bound["ceil_mode"] else 0)) // stride + 1
        out.append(size - 1 if bound["ceil_mode"] and (size - 1) * stride >= n + padding else size)
    return (*shape[:-spatial], *out)


def _transposed(shape: Shape, bound: Mapping[str, Any]) -> Shape:
    kernel = bound["weight"].shape[2:]
    lead = shape[: -len(kernel) - 1]
    _fits(shape[-len(kernel) - 1], bound["weight"].shape[0])
    out = [
        (n - 1) * _at(bound["stride"], d)
        - 2 * _at(bound["padding"], d)
        + _at(bound["dilation"], d) * (k - 1)
        + _at(bound["output_padding"], d)
        + 1
        for d, (n, k) in enumerate(zip(shape[-len(kernel) :], kernel, strict=True))
    ]
    return (*lead, bound["weight"].shape[1] * bound["groups"], *out)


def _fits(found: int, expected: int) -> None:
    """The operator itself would refuse other sizes; it will, and say so, when the model is run on the inputs."""
    if found != expected:
        raise ValueError(f"{found} channels where the weight has {expected}")


def _at(values: int | list[int], d: int) -> int:
    """An entry of an argument that is one number for all dimensions or one for each."""
    if isinstance(values, int):
        return values
    return values[d] if len(values) > 1 else values[0]


SHAPES: Mapping[str, ShapeOf] = {
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"), _same),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _pooled),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **{f"max_pool{n}d": partial(_max_pool, n) for n in (1, 2, 3)},
    "linear": _linear,
    "mean": _mean,
}
"""Operator -> the shape it gives its first argument's shape."""
