"""One row of the zoo's table: a structure, what to prune in it, and what is expected to stay."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...] | Mapping[str, tuple[int, ...]]
NORMS = nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm


@attrs.frozen
class Case:
    """A small network with everything a test has to know about it.

    Args:
        name: the key of the table, also the test id.
        build: makes the module; weights are redrawn by `net`.
        shapes: input shapes without the batch, by position or by name.
        op_types: the layers to prune, as in a rule.
        exclude: layer names a second rule takes out again.
        keeps: selected layers that cannot lose a unit, and why: they make an output, or a barrier reads them.
        grain: selected layers whose units only go in bundles (grouped, shuffled): the largest shortfall allowed.
        barriers: what each barrier that is reported says, as a regular expression.
        same_class: the compact module can be an instance of the same class.
        notes: what is special, one line.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: Shapes
    op_types: tuple[str, ...] = ("Conv2d",)
    exclude: tuple[str, ...] = ()
    keeps: Mapping[str, str] = attrs.field(factory=dict)
    grain: Mapping[str, int] = attrs.field(factory=dict)
    barriers: tuple[str, ...] = ()
    same_class: bool = True
    notes: str = ""

    def net(self) -> nn.Module:
        """The module in eval mode, float64, with seeded weights and trained-looking statistics."""
        return randomised(self.build(), seed=zlib.crc32(self.name.encode())).double().eval()

    def inputs(self, batch: int = 2, seed: int = 0, scale: float = 1.0) -> Any:
        """Random inputs: a tuple, or a dict where the shapes are named."""
        generator = torch.Generator().manual_seed(1000 + seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return scale * torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

        if isinstance(self.shapes, Mapping):
            return {name: draw(shape) for name, shape in self.shapes.items()}
        return tuple(draw(shape) for shape in self.shapes)

    def config(self, sparsity: float) -> list[dict[str, Any]]:
        """The rules that prune this network at one sparsity per layer."""
        rules: list[dict[str, Any]] = [{"op_types": list(self.op_types), "sparsity": sparsity}]
        return [*rules, {"op_names": list(self.exclude), "exclude": True}] if self.exclude else rules


def randomised(net: nn.Module, seed: int) -> nn.Module:
    """Redraw every tensor: nothing is 0 or 1 by default, so no operation is accidentally the identity."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.copy_(std * torch.randn(tensor.shape, generator=generator))

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in net.modules():
            for name, param in module.named_parameters(recurse=False):
                if param.dim() > 1 and param.shape[0] > 1:
                    normal(param, (2.0 / param[0].numel()) ** 0.5)
                elif "bias" in name or "beta" in name:
                    normal(param, 0.3)
                else:
                    uniform(param, 0.5, 1.5)
            for name, buffer in module.named_buffers(recurse=False):
                if "mean" in name:
                    normal(buffer, 0.3)
                elif "var" in name:
                    uniform(buffer, 0.5, 1.5)
    return net


def outputs(value: Any) -> list[Tensor]:
    """All tensors of a module's answer, in order."""
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value
    return [tensor for item in values for tensor in outputs(item)]


def answer(module: Callable[..., Any], inputs: Any) -> list[Tensor]:
    """Call with positional or named inputs."""
    return outputs(module(**inputs) if isinstance(inputs, Mapping) else module(*inputs))


def difference(left: list[Tensor], right: list[Tensor]) -> float:
    """The largest relative difference, `max |a - b| / max |a|`, over all outputs; infinite when shapes differ."""
    if [tensor.shape for tensor in left] != [tensor.shape for tensor in right]:
        return float("inf")
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(left, right, strict=True) if a.numel()]
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)) for a, b in pairs)
