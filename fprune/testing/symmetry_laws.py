"""What changes the masks of a pruner in a known way, such as permutations and scales; and that scores decide."""

from typing import Any

import torch
from torch import Tensor

from fprune.config import Config
from fprune.layers import Layer, unit_view
from fprune.masks import Masks
from fprune.strategies import distinct
from fprune.strategies.hypothesis import st
from fprune.testing.asks import AMOUNTS, Ask, asks, expanded, uniform_asks
from fprune.testing.law import Law, Piece
from fprune.tree import same

_NAMES = ("a.weight", "b.weight", "z.weight")
_SHAPES = ((4, 3), (3, 5), (6, 2), (4, 3, 2))


@st.composite
def _distinct(draw: st.DrawFn, piece: Piece) -> Ask:
    """Weights without ties, some with a bias."""
    count = draw(st.integers(1, 3))
    shapes: dict[str, tuple[int, ...]] = {name: draw(st.sampled_from(_SHAPES)) for name in _NAMES[:count]}
    if draw(st.booleans()):
        shapes["a.bias"] = shapes["a.weight"][:1]
    seed = draw(st.integers(0, 2**16))
    found, amount = distinct(shapes, seed=seed), draw(st.sampled_from(AMOUNTS))
    return Ask(found, Config(amount), f"distinct({shapes!r}, seed={seed})", seed=draw(st.integers(0, 3)))


def _differ(found: Masks, wanted: Masks, change: str) -> str | None:
    """What differs, in words."""
    for name in sorted({*found, *wanted}):
        if not same(found.get(name), wanted.get(name)):
            return f"{change}: masks[{name!r}] is {_text(found.get(name))}, expected {_text(wanted.get(name))}"
    return None


def _text(mask: Tensor | None) -> str:
    return "absent" if mask is None else str([int(kept) for kept in mask.flatten()[:24]])


def _order(piece: Piece, ask: Ask) -> str | None:
    names = list(ask.params)
    wanted = ask.found(piece)
    for order in (sorted(names), sorted(names, reverse=True)):
        found = ask.found(piece, {name: ask.params[name] for name in order})
        told = _differ(found, wanted, f"in the order {order}")
        if told is not None:
            return told
    return None


def _names(piece: Piece, ask: Ask) -> str | None:
    # A common prefix keeps the order that equal scores go by.
    wanted = Masks({f"net.{name}": mask for name, mask in ask.found(piece).items()})
    found = ask.found(piece, {f"net.{name}": value for name, value in ask.params.items()})
    return _differ(found, wanted, "every name with 'net.' in front")


def _renamed(piece: Piece, ask: Ask) -> str | None:
    turned = {"a": "z", "b": "y", "z": "a"}
    new = {name: turned[name[0]] + name[1:] for name in ask.params}
    wanted = Masks({new[name]: mask for name, mask in ask.found(piece).items()})
    found = ask.found(piece, {new[name]: value for name, value in ask.params.items()})
    return _differ(found, wanted, f"with the names {new}")


def _permutations(ask: Ask, axis: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(ask.seed)
    sizes = {name: value.shape[axis] for name, value in ask.params.items() if value.ndim > axis}
    return {name: torch.randperm(size, generator=draw) for name, size in sizes.items()}


def _outputs(piece: Piece, ask: Ask) -> str | None:
    order = _permutations(ask, 0)
    order = {name: order[name.replace("bias", "weight")] for name in order}
    wanted = Masks({n: m if len(m) == 1 else m[order[n]] for n, m in ask.found(piece).items()})
    found = ask.found(piece, {name: value[order[name]] for name, value in ask.params.items()})
    return _differ(found, wanted, "with permuted output units")


def _inputs(piece: Piece, ask: Ask) -> str | None:
    order = _permutations(ask, 1)

    def turned(name: str, value: Tensor) -> Tensor:
        return value[:, order[name]] if name in order and value.ndim > 1 and value.shape[1] > 1 else value

    wanted = Masks({name: turned(name, mask) for name, mask in ask.found(piece).items()})
    found = ask.found(piece, {name: turned(name, value) for name, value in ask.params.items()})
    return _differ(found, wanted, "with permuted input channels")


def _scale(piece: Piece, ask: Ask) -> str | None:
    wanted = ask.found(piece)
    for power in (-20, -6, -1, 1, 8):
        scaled = ask.with_params({name: value * 2.0**power for name, value in ask.params.items()})
        told = _differ(ask.found(piece, scaled), wanted, f"all weights times 2^{power}")
        if told is not None:
            return told
    return None


def _signs(piece: Piece, ask: Ask) -> str | None:
    flipped = ask.with_params({name: -value for name, value in ask.params.items()})
    return _differ(ask.found(piece, flipped), ask.found(piece), "all weights negated")


def _scores(piece: Piece, ask: Ask) -> str | None:
    if piece.scores is None:
        return "scores are not given: check_pruner(..., scores=fn), fn(params) -> {name: scores}"
    masks, scores = ask.found(piece), piece.scores(ask.params)
    for layer in ask.layers:
        if layer.weight not in masks or layer.weight not in scores:
            continue
        score, kept = _beside(scores[layer.weight], masks, layer, ask)
        if kept.all() or not kept.any():
            continue
        lowest, highest = score[kept].min(), score[~kept].max()
        if lowest < highest:
            return f"of {layer.weight!r} a score of {lowest:g} is kept and one of {highest:g} is removed"
    return None


def _beside(score: Tensor, masks: Masks, layer: Layer, ask: Ask) -> tuple[Tensor, Tensor]:
    """Scores, and what is kept, in the same shape."""
    mask = expanded(masks, layer.weight, ask.params[layer.weight])
    if score.shape == mask.shape:
        return score.flatten(), mask.flatten()
    return score.flatten(), unit_view(mask, layer).any(dim=1)


def _plain(piece: Piece) -> bool:
    return piece.plain


def _unnamed(piece: Piece) -> bool:
    """Whether names may change: no config that names layers is given."""
    return piece.plain and piece.config is None


def _scored(piece: Piece) -> bool:
    return piece.scores is not None


def _law(name: str, says: str, check: Any, examples: Any = asks, applies: Any = _plain, *, asked: bool = False) -> Law:
    return Law(name, "pruner", says, examples, check, applies, asked)


LAWS: tuple[Law, ...] = (
    _law("dict order", "the order of the mapping makes no difference", _order),
    _law("scores", "nothing kept scores lower than something removed", _scores, asks, _scored),
    _law(
        "names", "renamed parameters have renamed masks, where the order of names stays", _names, uniform_asks, _unnamed
    ),
    _law("any names", "without ties, renamed parameters have renamed masks", _renamed, _distinct, _unnamed),
    _law("outputs", "permuted output units have permuted masks", _outputs, _distinct, _unnamed),
    _law(
        "inputs",
        "permuted input channels leave the masks of units, and permute those of elements",
        _inputs,
        _distinct,
        _unnamed,
    ),
    _law("scale", "all weights times a power of two: the same masks", _scale, asked=True),
    _law("signs", "all weights negated: the same masks", _signs, asked=True),
)
"""In the order in which they are tried."""
