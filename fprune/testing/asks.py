"""What a pruner is asked: parameters, a config, inherited masks and a seed; and how its answer is counted."""

import math
from collections.abc import Mapping
from typing import Any, cast, final

import attrs
import torch
from torch import Tensor

from fprune.config import Config
from fprune.inputs import Inputs
from fprune.layers import Layer, unit_view
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.strategies import Network, configs, filled, networks, params
from fprune.strategies.hypothesis import st
from fprune.structure import Structure, trace
from fprune.testing.law import Piece

AMOUNTS = (0.25, 0.3, 0.5, 0.65)


@final
@attrs.frozen(eq=False)
class Ask:
    """What a pruner is asked.

    Args:
        params: a mapping of names to tensors, or a `Model`.
        config: what to prune and how much.
        text: the expression of the parameters.
        seed: for pruners that draw.
        masks: what is gone already.
        inputs: what the model's forward takes.
        inputs_text: their expression.
        structure: the trace of the model, for pruners that need one.
    """

    params: Mapping[str, Tensor]
    config: Config
    text: str
    seed: int = 0
    masks: Masks = attrs.field(factory=Masks)
    inputs: Inputs | None = None
    inputs_text: str = ""
    structure: Structure | None = None

    def code(self, piece: Piece) -> list[str]:
        """The lines that ask again; `net` stands for a model that was given."""
        inputs = f", example_inputs={self.inputs_text}" if self.inputs is not None else ""
        return [
            *_IMPORTS,
            f"params = {self.text}",
            f"config = {self.config!r}",
            f"masks = {piece.value!r}.masks(params, config{inputs}, seed={self.seed})",
        ]

    def found(
        self,
        piece: Piece,
        params: Mapping[str, Tensor] | None = None,
        *,
        config: Config | None = None,
        masks: Masks | None = None,
    ) -> Masks:
        """The pruner's answer, with some of what it is asked changed."""
        return piece.stage.masks(
            self.params if params is None else params,
            self.config if config is None else config,
            example_inputs=self.inputs,
            structure=self.structure,
            masks=self.masks if masks is None else masks,
            seed=self.seed,
        )

    def with_params(self, changes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The parameters with other values."""
        if isinstance(self.params, Model):
            return self.params.replace(params=changes)
        return {**self.params, **changes}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the parameters."""
        return Scope.of(self.params).layers


_IMPORTS = (
    "import torch",
    "from torch import nn",
    "from fprune import Config, Masks, Model, Rule",
    "from fprune.strategies import Mean, Residual, Tied, distinct, filled, integers",
)


def tensors_text(found: Mapping[str, Tensor]) -> str:
    """The expression of a mapping of small tensors.

    Examples:
        >>> tensors_text({"w": torch.tensor([1.0, math.nan])})
        "{'w': torch.tensor([1.0, float('nan')])}"
    """
    shown = (f"{name!r}: torch.tensor({_text(value.tolist())})" for name, value in found.items())
    return f"{{{', '.join(shown)}}}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, cast('list[object]', value)))}]"
    return repr(value) if math.isfinite(value) else f"float('{value}')"


@st.composite
def _plain(draw: st.DrawFn, piece: Piece, uniform: bool) -> Ask:
    found = draw(params())
    wanted = st.sampled_from(AMOUNTS).map(Config) if uniform else configs(found)
    config = draw(wanted) if piece.config is None else piece.config
    return Ask(found, config, tensors_text(found), draw(st.integers(0, 3)))


@st.composite
def _on_network(draw: st.DrawFn, piece: Piece) -> Ask:
    network: Network = draw(networks())
    config = draw(configs(network)) if piece.config is None else piece.config
    model, inputs = Model.from_module(network.net), Inputs.of(network.inputs)
    text = f"Model.from_module({network!r})"
    return _asked(
        piece, Ask(model, config, text, draw(st.integers(0, 3)), inputs=inputs, inputs_text=network.inputs_code)
    )


@st.composite
def _on_given(draw: st.DrawFn, piece: Piece, given: Model) -> Ask:
    dtype = next((value.dtype for value in given.values() if value.is_floating_point()), torch.float32)
    seed = draw(st.integers(0, 2**16))
    model = Model.from_module(filled(given.to_module(), seed=seed, dtype=dtype))
    model = Model(given.skeleton, model.params, model.buffers, given.training)
    config = draw(st.sampled_from(AMOUNTS).map(Config)) if piece.config is None else piece.config
    text = f"Model.from_module(filled(net, seed={seed}, dtype={dtype}))  # net: the model you passed"
    ask = Ask(model, config, text, draw(st.integers(0, 3)), inputs=piece.inputs, inputs_text="example_inputs")
    return _asked(piece, ask)


def _asked(piece: Piece, ask: Ask) -> Ask:
    """The question with the trace of its model, where the pruner needs one."""
    if "structure" not in piece.value.needs or ask.inputs is None or not isinstance(ask.params, Model):
        return ask
    return attrs.evolve(ask, structure=trace(ask.params, ask.inputs))


def asks(piece: Piece) -> st.SearchStrategy[Ask]:
    """Questions for a pruner: plain parameters, or a model where it needs one."""
    if piece.model is not None:
        return _on_given(piece, piece.model)
    return _on_network(piece) if piece.structural else _plain(piece, uniform=False)


def uniform_asks(piece: Piece) -> st.SearchStrategy[Ask]:
    """The same on plain parameters, with a config that names no layer."""
    return _plain(piece, uniform=True)


def expanded(masks: Masks, name: str, like: Tensor) -> Tensor:
    """The mask of a parameter in its full shape; all true for a dense one."""
    return masks[name].expand(like.shape) if name in masks else torch.ones(like.shape, dtype=torch.bool)


def gone(masks: Masks, layer: Layer, params: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many elements, and how many whole units, of a layer are masked."""
    mask = expanded(masks, layer.weight, params[layer.weight])
    return int((~mask).sum()), int((~unit_view(mask, layer).any(dim=1)).sum())


def number(sparsity: float, total: int) -> int:
    """How many of `total` go: `floor(s * n + 1e-9)`.

    Examples:
        >>> number(0.29, 100)
        29
    """
    return math.floor(sparsity * total + 1e-9)


def miscounted(masks: Masks, ask: Ask, config: Config | None = None) -> str | None:
    """What is wrong with how many go; None when it is what the config says.

    A pruner may count elements or whole units, and may count layer by layer or over all layers of a rule.
    """
    rows = (ask.config if config is None else config).resolve(ask.params).selected
    rules: dict[int | None, list[Any]] = {}
    for row in rows:
        rules.setdefault(row.rule, []).append(row)
    for group in rules.values():
        found = [gone(masks, row.layer, ask.params) for row in group]
        sizes = [(math.prod(row.layer.shape), row.layer.units) for row in group]
        amount = group[0].sparsity if group[0].sparsity is not None else group[0].total
        if amount is None or any(
            met(amount, [(f[grain], size[grain]) for f, size in zip(found, sizes, strict=True)]) for grain in (0, 1)
        ):
            continue
        pairs = list(zip(group, found, sizes, strict=True))
        wrong = (p for p in pairs if all(p[1][grain] != number(amount, p[2][grain]) for grain in (0, 1)))
        row, (elements, units), (size, width) = next(wrong, pairs[0])
        return (
            f"of {row.layer.weight!r} {elements} of {size} elements ({units} of {width} units) are removed, "
            f"expected floor({amount:g} * {size}) = {number(amount, size)} elements "
            f"or floor({amount:g} * {width}) = {number(amount, width)} units"
        )
    return None


def met(sparsity: float, counts: list[tuple[int, int]]) -> bool:
    """Whether as many go as a sparsity says, given how many of how many go of each layer: of each, or of all together.

    Examples:
        >>> met(0.5, [(1, 2), (2, 4)]), met(0.5, [(0, 2), (3, 4)]), met(0.5, [(1, 2), (1, 4)])
        (True, True, False)
    """
    each = all(removed == number(sparsity, total) for removed, total in counts)
    return each or sum(removed for removed, _ in counts) == number(sparsity, sum(total for _, total in counts))
