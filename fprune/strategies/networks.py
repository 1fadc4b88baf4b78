"""Strategies for small networks in which every sum is exact, and for models."""

from collections.abc import Callable, Iterable, Sequence
from typing import final

import attrs
import torch
from torch import Tensor, nn

from fprune.model import Model
from fprune.strategies.architectures import Mean, Part, Residual, Tied, filled, integers
from fprune.strategies.hypothesis import st

Families = tuple[tuple[str, ...], ...]


@final
@attrs.frozen(eq=False, repr=False)
class Network:
    """A generated network: the expression that builds it, inputs for it, and the layers that may lose outputs.

    Examples:
        >>> network = Network(Part(nn.Sequential, (Part(nn.Linear, (3, 4)), Part(nn.Linear, (4, 2)))), (3,), (("0",),))
        >>> network
        filled(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), seed=0)
        >>> network.net(*network.inputs).shape
        torch.Size([2, 2])

    Args:
        part: what builds it.
        shape: of one input.
        families: names of layers; those of one family meet in an addition or share a weight. The last layer of the
            network, whose outputs are the network's, is in none.
        seed: of the weights.
        dtype: of weights and inputs.
        net: the network in eval mode, weights small integers; derived.
        inputs: a batch of two integer inputs, as a tuple of arguments; derived.
    """

    part: Part
    shape: tuple[int, ...]
    families: Families
    seed: int = 0
    dtype: torch.dtype = torch.float64
    net: nn.Module = attrs.field(init=False)
    inputs: tuple[Tensor, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "net", filled(self.part, seed=self.seed, dtype=self.dtype))
        object.__setattr__(self, "inputs", (integers(2, *self.shape, seed=self.seed, spread=2, dtype=self.dtype),))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that may lose outputs."""
        return tuple(name for family in self.families for name in family)

    @property
    def inputs_code(self) -> str:
        """The expression of the inputs."""
        shape = ", ".join(map(str, (2, *self.shape)))
        return f"(integers({shape}, seed={self.seed}, spread=2{_dtype(self.dtype)}),)"

    def __repr__(self) -> str:
        return f"filled({self.part!r}, seed={self.seed}{_dtype(self.dtype)})"


def _dtype(dtype: torch.dtype) -> str:
    return "" if dtype == torch.float64 else f", dtype={dtype}"


_seeds = st.integers(0, 2**16)
# Three channels and 65 % at most: a shared budget can always be met with one channel left in each layer.
_widths = st.integers(3, 7)
_RELU = Part(nn.ReLU)


def _sequential(parts: Iterable[Part]) -> Part:
    return Part(nn.Sequential, tuple(parts))


def _norm(kind: Callable[..., nn.Module], width: int) -> Part:
    return Part(kind, (width,), {"eps": 1.0})


def _conv(channels: int, out: int, *, bias: bool = True, groups: int = 1) -> Part:
    options = {"padding": 1, **({} if bias else {"bias": False}), **({} if groups == 1 else {"groups": groups})}
    return Part(nn.Conv2d, (channels, out, 3), options)


@st.composite
def _mlps(draw: st.DrawFn) -> tuple[Part, tuple[int, ...], Families]:
    """Linear layers with ReLU, some with a BatchNorm1d between."""
    parts: list[Part] = []
    families: list[tuple[str, ...]] = []
    last = 3
    for _ in range(draw(st.integers(1, 3))):
        size = draw(_widths)
        families.append((str(len(parts)),))
        norm = [_norm(nn.BatchNorm1d, size)] if draw(st.booleans()) else []
        parts += [Part(nn.Linear, (last, size)), *norm, _RELU]
        last = size
    return _sequential([*parts, Part(nn.Linear, (last, 2))]), (3,), tuple(families)


@st.composite
def _convnets(draw: st.DrawFn) -> tuple[Part, tuple[int, ...], Families]:
    """Convolution, BatchNorm, ReLU, some with a pool; then flatten, or a mean, and a linear layer."""
    parts: list[Part] = []
    families: list[tuple[str, ...]] = []
    last, pixels = 2, 4
    for _ in range(draw(st.integers(1, 3))):
        size = draw(_widths)
        families.append((str(len(parts)),))
        norm = [_norm(nn.BatchNorm2d, size)] if draw(st.booleans()) else []
        parts += [_conv(last, size, bias=draw(st.booleans())), *norm, _RELU]
        if pixels > 1 and draw(st.booleans()):
            parts.append(Part(nn.MaxPool2d, (2,)))
            pixels //= 2
        last = size
    flat = [Part(nn.Flatten), Part(nn.Linear, (last * pixels**2, 2))]
    head = flat if draw(st.booleans()) else [Part(Mean), Part(nn.Linear, (last, 2))]
    return _sequential([*parts, *head]), (2, 4, 4), tuple(families)


@st.composite
def _residuals(draw: st.DrawFn) -> tuple[Part, tuple[int, ...], Families]:
    """A stem, one or two residual blocks, the mean, and a linear layer."""
    width = draw(_widths)
    blocks = [Part(Residual, (width, width, 1))]
    families: list[tuple[str, ...]] = [("0", "2.conv2"), ("2.conv1",)]
    last = width
    if draw(st.booleans()):
        last = draw(_widths)
        blocks.append(Part(Residual, (width, last, 2)))
        families = [families[0], ("3.conv2", "3.downsample"), *families[1:], ("3.conv1",)]
    parts = [_conv(2, width, bias=False), _RELU, *blocks, Part(Mean), Part(nn.Linear, (last, 2))]
    return _sequential(parts), (2, 4, 4), tuple(families)


@st.composite
def _depthwise(draw: st.DrawFn) -> tuple[Part, tuple[int, ...], Families]:
    """A convolution, a depthwise one, a pointwise one, the mean, and a linear layer."""
    width, last = draw(_widths), draw(_widths)
    norm = [_norm(nn.BatchNorm2d, width)] if draw(st.booleans()) else []
    parts = [_conv(2, width), _RELU, _conv(width, width, groups=width), *norm, _RELU]
    families = (("0", "2"), (str(len(parts)),))
    parts += [Part(nn.Conv2d, (width, last, 1)), _RELU, Part(Mean), Part(nn.Linear, (last, 2))]
    return _sequential(parts), (2, 4, 4), families


@st.composite
def _tied(draw: st.DrawFn) -> tuple[Part, tuple[int, ...], Families]:
    """A linear layer, one that is applied twice under two names, and another."""
    width = draw(_widths)
    parts = [Part(nn.Linear, (3, width)), _RELU, Part(Tied, (width,)), Part(nn.Linear, (width, 2))]
    return _sequential(parts), (3,), (("0", "2.first"),)


_KINDS = {"mlp": _mlps, "cnn": _convnets, "residual": _residuals, "depthwise": _depthwise, "tied": _tied}
KINDS = tuple(_KINDS)
"""The kinds of generated networks, simplest first."""


def networks(*, kinds: Sequence[str] = KINDS, dtype: torch.dtype = torch.float64) -> st.SearchStrategy[Network]:
    """Generate small networks that compute without rounding, with inputs for them.

    Weights are integers in [-3, 3] and norms divide by powers of two, so equal means equal to the last bit, and
    scores are often equal.

    Examples:
        >>> from hypothesis import find
        >>> find(networks(kinds=["mlp"]), lambda network: len(network.layers) > 1)
        filled(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), seed=0)

    Args:
        kinds: some of `mlp`, `cnn` (with BatchNorm and pools), `residual`, `depthwise`, `tied`.
        dtype: of weights and inputs; in float32 sums stay exact up to 2^24.

    Returns:
        A strategy; examples shrink towards fewer and narrower layers.
    """
    drawn = st.one_of(*(_KINDS[kind]() for kind in kinds))
    return st.tuples(drawn, _seeds).map(lambda made: Network(*made[0], seed=made[1], dtype=dtype))


def modules(*, kinds: Sequence[str] = KINDS, dtype: torch.dtype = torch.float64) -> st.SearchStrategy[nn.Module]:
    """Generate the modules of `networks`, in eval mode.

    Examples:
        >>> from hypothesis import given, settings
        >>> @given(modules())
        ... @settings(max_examples=2, deadline=None)
        ... def law(net):
        ...     assert all((p == p.round()).all() for p in net.parameters())
        >>> law()

    Args:
        kinds: as in `networks`.
        dtype: as in `networks`.

    Returns:
        A strategy.
    """
    return networks(kinds=kinds, dtype=dtype).map(lambda network: network.net)


def models(*, kinds: Sequence[str] = KINDS, dtype: torch.dtype = torch.float64) -> st.SearchStrategy[Model]:
    """Generate the models of `networks`.

    Examples:
        >>> from hypothesis import find
        >>> find(models(kinds=["tied"]), lambda model: True)
        Model(Sequential, 6 params, 32 elements)

    Args:
        kinds: as in `networks`.
        dtype: as in `networks`.

    Returns:
        A strategy.
    """
    return modules(kinds=kinds, dtype=dtype).map(Model.from_module)
