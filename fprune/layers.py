"""What a rule can select: the layers of a model, and how a layer's weight falls into output units."""

from collections.abc import Iterator, Mapping
from typing import final

import attrs
import torch
from torch import Tensor, nn

from fprune.equality import named_modules, named_tensors
from fprune.errors import ModelError

DEFAULT_OP_TYPES: tuple[str, ...] = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Bilinear",
    "PReLU",
    "Embedding",
    "EmbeddingBag",
)
"""The types that `"default"` stands for."""

_TRANSPOSED = frozenset({"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"})
# transformers' Conv1D is a linear layer that stores its weight as (in, out)
_INPUT_FIRST = frozenset({"Conv1D"})


@final
@attrs.frozen
class Layer:
    """One prunable tensor and the output units it falls into.

    Examples:
        >>> (layer,) = layers_of({"fc.weight": torch.zeros(4, 3), "fc.bias": torch.zeros(4)})
        >>> layer.name, layer.weight, layer.bias, layer.units
        ('fc', 'fc.weight', 'fc.bias', 4)

    Args:
        name: What rules call it: the module's name, or the parameter's where the module has several.
        type: The module's class name; "Parameter" in a plain mapping.
        weight: Canonical name of the tensor.
        bias: Canonical name of the bias, one element for each unit, or None.
        axis: The output-unit axis of the weight.
        groups: How often the units along `axis` repeat: the groups of a transposed convolution, else 1.
        shape: The weight's shape.
        units: Number of output units: `shape[axis] * groups`.
        default: Whether a rule without selectors means this layer.
        aliases: Other module names that share the weight and therefore also select this layer.
        names: The exact names that select it: its own, its weight's, and those of modules tied to it; derived.
    """

    name: str
    type: str
    weight: str
    bias: str | None
    axis: int
    groups: int
    shape: tuple[int, ...]
    units: int
    default: bool
    aliases: tuple[str, ...] = ()
    names: tuple[str, ...] = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(lambda self: _names(self), takes_self=True)
    )


def _names(layer: Layer) -> tuple[str, ...]:
    tail = layer.weight.rpartition(".")[2]
    return layer.name, layer.weight, *layer.aliases, *(f"{alias}.{tail}" for alias in layer.aliases)


def layers_of(params: Mapping[str, Tensor], skeleton: nn.Module | None = None) -> tuple[Layer, ...]:
    """List the layers that rules can select.

    With a module, each submodule with a `weight` is a layer, and of other submodules each own float parameter; modules
    that share a weight are one layer. Without one, each float tensor is a layer: "x.weight" is called "x" and takes
    "x.bias" along when that has one element for each unit.

    Examples:
        >>> [layer.name for layer in layers_of({"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)})]
        ['a']

    Args:
        params: Canonical name -> tensor.
        skeleton: The module whose parameters these are.

    Returns:
        In module order, or in the mapping's order.

    Raises:
        ModelError: what is given is no mapping, such as a module.
    """
    if not isinstance(params, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(
            f"expected a Model or a mapping from names to tensors, found {type(params).__name__}",
            hint="pass Model.from_module(net), or dict(net.named_parameters())",
        )
    return tuple(_of_mapping(params)) if skeleton is None else tuple(_of_module(params, skeleton))


def _of_mapping(params: Mapping[str, Tensor]) -> Iterator[Layer]:
    biases = {name: _bias_of(name, params) for name in params}
    consumed = frozenset(biases.values())
    for name, tensor in params.items():
        if name not in consumed and tensor.is_floating_point() and tensor.ndim >= 1:
            short = name.removesuffix(".weight")
            yield _layer(short, "Parameter", name, biases[name], tensor, axis=0, groups=1, default=tensor.ndim >= 2)


def _bias_of(name: str, params: Mapping[str, Tensor]) -> str | None:
    if name != "weight" and not name.endswith(".weight"):
        return None
    bias = f"{name.removesuffix('weight')}bias"
    fits = bias in params and params[name].ndim >= 1 and params[bias].shape == params[name].shape[:1]
    return bias if fits else None


def _of_module(params: Mapping[str, Tensor], skeleton: nn.Module) -> Iterator[Layer]:
    canonical = canonical_names(skeleton)
    found: dict[str, Layer] = {}
    aliases: dict[str, list[str]] = {}
    for path, module in named_modules(skeleton):
        own = [name for name, value in vars(module)["_parameters"].items() if value is not None]
        for key in ("weight",) if "weight" in own else own:
            full = f"{path}.{key}" if path else key
            weight = canonical[full]
            if weight not in params or params[weight].ndim == 0:
                continue
            if key != "weight" and not params[weight].is_floating_point():
                continue
            name = path if key == "weight" and path else full
            if weight in found:
                aliases.setdefault(weight, []).append(name)
            else:
                found[weight] = _module_layer(name, module, key, weight, canonical, params, path)
    for weight, layer in found.items():
        yield attrs.evolve(layer, aliases=tuple(aliases[weight])) if weight in aliases else layer


def _module_layer(
    name: str,
    module: nn.Module,
    key: str,
    weight: str,
    canonical: Mapping[str, str],
    params: Mapping[str, Tensor],
    path: str,
) -> Layer:
    kinds = frozenset(cls.__name__ for cls in type(module).__mro__)
    transposed = bool(kinds & _TRANSPOSED) and key == "weight"
    computed = "parametrizations" in vars(module)["_modules"]  # what is left as its own is not what it multiplies by
    axis = 1 if (transposed or bool(kinds & _INPUT_FIRST)) and key == "weight" and params[weight].ndim > 1 else 0
    layer = _layer(
        name,
        type(module).__name__,
        weight,
        None,
        params[weight],
        axis=axis,
        groups=int(getattr(module, "groups", 1)) if transposed else 1,
        default=not kinds.isdisjoint(DEFAULT_OP_TYPES) and not computed,
    )
    bias = canonical.get(f"{path}.bias" if path else "bias") if key == "weight" else None
    fits = bias is not None and bias in params and tuple(params[bias].shape) == (layer.units,)
    return attrs.evolve(layer, bias=bias) if fits else layer


def _layer(
    name: str, type: str, weight: str, bias: str | None, tensor: Tensor, *, axis: int, groups: int, default: bool
) -> Layer:
    shape = tuple(tensor.shape)
    return Layer(name, type, weight, bias, axis, groups, shape, shape[axis] * groups, default)


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first, in sorted order, of the names that share its tensor.

    Examples:
        >>> net = nn.ModuleDict({"head": nn.Linear(2, 4, bias=False), "embed": nn.Embedding(4, 2)})
        >>> net.head.weight = net.embed.weight
        >>> canonical_names(net)
        {'embed.weight': 'embed.weight', 'head.weight': 'embed.weight'}
    """
    tensors = named_tensors(module)
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensors[name]), name) for name in sorted(tensors)}


def unit_view(tensor: Tensor, layer: Layer) -> Tensor:
    """See a weight as a matrix with one row for each output unit.

    Examples:
        >>> (layer,) = layers_of({"w": torch.zeros(4, 3, 2)})
        >>> unit_view(torch.zeros(4, 3, 2), layer).shape
        torch.Size([4, 6])

    Args:
        tensor: Of shape `layer.shape`.
        layer: Says where the units are.

    Returns:
        `(units, rest)`: a view where strides allow, else a copy.

    Raises:
        ModelError: The tensor does not have the layer's shape.
    """
    if tuple(tensor.shape) != layer.shape:
        raise ModelError(f"{layer.weight!r}: expected shape {layer.shape}, got {tuple(tensor.shape)}")
    if layer.axis == 0:
        return tensor.reshape(layer.units, tensor.numel() // layer.units if layer.units else 0)
    if layer.groups == 1:
        return tensor.movedim(layer.axis, 0).flatten(1)
    # (groups * in, out, ...) -> (groups, out, in, ...): unit g * out + o is row (g, o)
    grouped = tensor.reshape(layer.groups, layer.shape[0] // layer.groups, *layer.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1).flatten(1)


def unit_mask(keep: Tensor, layer: Layer) -> Tensor:
    """Turn one bool for each output unit into a mask that broadcasts to the weight.

    Examples:
        >>> (layer,) = layers_of({"w": torch.zeros(2, 3, 5, 5)})
        >>> unit_mask(torch.tensor([True, False]), layer).shape
        torch.Size([2, 1, 1, 1])

    Args:
        keep: Bool, `(units,)`.
        layer: Says where the units are.

    Returns:
        Bool; `(units, 1, ...)`, `(1, units, 1, ...)`, or `(in, units / groups, 1, ...)` for a grouped transposed
        convolution, whose units along axis 1 repeat.

    Raises:
        ModelError: `keep` is not one bool for each unit.
    """
    if keep.dtype != torch.bool or tuple(keep.shape) != (layer.units,):
        raise ModelError(
            f"{layer.weight!r}: expected {layer.units} bools, one for each unit, got {keep.dtype} {tuple(keep.shape)}"
        )
    return unit_values(keep, layer)


def unit_values(values: Tensor, layer: Layer) -> Tensor:
    """Lay out one number for each output unit so that it broadcasts to the weight; gradients go through.

    Examples:
        >>> (layer,) = layers_of({"w": torch.zeros(2, 3)})
        >>> torch.ones(2, 3) * unit_values(torch.tensor([1.0, 2.0]), layer)
        tensor([[1., 1., 1.],
                [2., 2., 2.]])

    Args:
        values: `(units,)`.
        layer: Says where the units are.

    Returns:
        The shape that `unit_mask` has.
    """
    if layer.groups == 1:
        shape = [1] * len(layer.shape)
        shape[layer.axis] = layer.units
        return values.reshape(shape)
    rows = values.reshape(layer.groups, 1, layer.shape[1]).expand(-1, layer.shape[0] // layer.groups, -1)
    return rows.reshape(layer.shape[0], layer.shape[1], *[1] * (len(layer.shape) - 2))
