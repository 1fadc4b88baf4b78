"""What holds for every pruner: its masks, its counts, its rounds, and that it changes nothing."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fprune.config import Config
from fprune.errors import FpruneError
from fprune.masks import Masks
from fprune.model import Model
from fprune.strategies import params
from fprune.strategies.hypothesis import st
from fprune.structure import compact
from fprune.testing.asks import Ask, asks, expanded, gone, miscounted, tensors_text
from fprune.testing.law import Law, Piece
from fprune.testing.watch import changed, disturb, process
from fprune.tree import same


def _structure(piece: Piece, ask: Ask) -> str | None:
    masks = ask.found(piece)
    for name, mask in masks.items():
        if name not in ask.params:
            return f"masks[{name!r}]: there is no such parameter, expected one of {sorted(ask.params)}"
        value = ask.params[name]
        if mask.device != value.device:
            return f"masks[{name!r}] is on {mask.device}, expected {value.device}, where the parameter is"
    masks.check(ask.params)
    return None


def _count(piece: Piece, ask: Ask) -> str | None:
    return miscounted(ask.found(piece), ask)


def _selected(piece: Piece, ask: Ask) -> str | None:
    masks, plan = ask.found(piece), ask.config.resolve(ask.params)
    for row in plan.rows:
        elements = 0 if row.selected else gone(masks, row.layer, ask.params)[0]
        if elements:
            return f"{elements} elements of {row.layer.weight!r} are removed, which the config does not select"
    return None


def _zero(piece: Piece, ask: Ask) -> str | None:
    masks = ask.found(piece, config=ask.config.scaled(0.0))
    for name, mask in masks.items():
        if not mask.all():
            return f"{int((~mask).sum())} of the mask of {name!r} are false at sparsity 0, expected none"
    return None


def _emptied(piece: Piece, ask: Ask) -> str | None:
    try:
        masks = ask.found(piece, config=ask.config.map(lambda _: 0.9999))
    except FpruneError:
        return None  # an amount that cannot be met is an error
    for name, mask in masks.items():
        if mask.numel() and not mask.any():
            return f"nothing is left of {name!r} at sparsity 0.9999, expected at least one unit or element"
    return None


def _unchanged(piece: Piece, ask: Ask) -> str | None:
    inherited = ask.found(piece, config=ask.config.scaled(0.5))
    for masks in (Masks(), inherited):
        held: tuple[Any, ...] = (dict(ask.params), _buffers(ask.params), masks, ask.config)
        before, versions, around = copy.deepcopy(held), _versions(held), process()
        found = ask.found(piece, masks=masks)
        for what, old, new in zip(("params", "buffers", "masks", "config"), before, held, strict=True):
            if not same(old, new):
                return f"the {what} it was given have other values afterwards"
        if _versions(held) != versions:
            return "a tensor it was given was written to, although the values are the same"
        if changes := changed(around, process()):
            return f"{changes[0]} changed"
        places = {tensor.data_ptr(): name for part in (held[0], masks) for name, tensor in part.items()}
        for name, mask in found.items():
            if mask.data_ptr() in places and mask.numel():
                return f"masks[{name!r}] shares its memory with what it was given for {places[mask.data_ptr()]!r}"
    return None


def _buffers(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(given.buffers) if isinstance(given, Model) else {}


def _versions(held: tuple[Any, ...]) -> list[int]:
    return [tensor._version for part in held[:3] for tensor in part.values()]


def _deterministic(piece: Piece, ask: Ask) -> str | None:
    first = ask.found(piece)
    for _ in range(2):
        disturb()
        again = ask.found(piece)
        if again != first:
            name = next(name for name in {*first, *again} if not same(first.get(name), again.get(name)))
            return f"asked the same again, it gives another mask of {name!r}"
    return None


def _superset(piece: Piece, ask: Ask) -> str | None:
    less = ask.found(piece, config=ask.config.scaled(0.5))
    more = ask.found(piece)
    for name in less:
        if not more.select([name]).shrinks(less.select([name])):
            return f"of {name!r} something is kept that half the sparsity removes"
    return None


def _rounds(piece: Piece, ask: Ask) -> str | None:
    masks = Masks()
    for share in (0.5, 0.8, 1.0):
        config = ask.config.scaled(share)
        left = ask.with_params(masks.apply({name: ask.params[name] for name in masks}))
        masks = masks & ask.found(piece, left, config=config, masks=masks)
        wrong = miscounted(masks, ask, config)
        if wrong is not None:
            return f"in rounds, after {share:g} of the sparsity: {wrong}"
    return None


def _again(piece: Piece, ask: Ask) -> str | None:
    first = ask.found(piece)
    left = ask.with_params(first.apply({name: ask.params[name] for name in first}))
    both = first & ask.found(piece, left, masks=first)
    for name in both:
        before, after = (int((~expanded(m, name, ask.params[name])).sum()) for m in (first, both))
        if before != after:
            return f"of {name!r} {after} elements are removed, expected the {before} that were gone already"
    return None


@st.composite
def _spoilt(draw: st.DrawFn, piece: Piece) -> Ask:
    found = {name: value.clone() for name, value in draw(params(max_tensors=2)).items()}
    weights = [name for name in found if name.endswith("weight")]
    name, at = draw(st.sampled_from(weights)), draw(st.integers(0, 7))
    flat = found[name].flatten()
    flat[at % len(flat)] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    spoilt = {**found, name: flat.reshape(found[name].shape)}
    return Ask(spoilt, Config(0.5), tensors_text(spoilt))


def _refused(piece: Piece, ask: Ask) -> str | None:
    name = next(name for name, value in ask.params.items() if not value.isfinite().all())
    bad = float(ask.params[name][~ask.params[name].isfinite()][0])
    try:
        ask.found(piece)
    except FpruneError as error:
        return (
            None
            if name in str(error) or name.removesuffix(".weight") in str(error)
            else (f"{name!r} holds {bad}, and the error does not name it: {error.message}")
        )
    return f"{name!r} holds {bad}, and it gives masks; expected an error that names the parameter"


def _compact(piece: Piece, ask: Ask) -> str | None:
    if not isinstance(ask.params, Model) or ask.inputs is None or ask.structure is None:
        return None
    masks = ask.found(piece)
    done = compact(ask.params, masks, ask.structure)
    with torch.no_grad():
        masked = ask.inputs.call(ask.params.replace(params=masks.apply(ask.params)))
        smaller = ask.inputs.call(done.model)
    if not torch.allclose(masked, smaller, rtol=1e-5, atol=1e-5):
        return f"the outputs of the masked and of the compact model differ by {(masked - smaller).abs().max():.3g}"
    for layer in ask.layers:
        units, left = gone(masks, layer, ask.params)[1], done.model[layer.weight].shape[layer.axis]
        if units and left > layer.units - units:
            why = "; ".join(f"{family}: {reason}" for family, reason in done.report.refused.items())
            return (
                f"{units} units of {layer.weight!r} are masked, and it cannot be cut to {layer.units - units} ({why})"
            )
    return None


_TIES = ((8, 2), (100, 1), (64, 64), (512, 8), (4096, 1), (4096, 8))


@st.composite
def _equal(draw: st.DrawFn, piece: Piece) -> Ask:
    shape = draw(st.sampled_from(_TIES))
    amount = draw(st.sampled_from([0.5, 0.29]))
    return Ask({"w": torch.ones(shape)}, Config(amount), f"{{'w': torch.ones{shape}}}")


def _ties(piece: Piece, ask: Ask) -> str | None:
    masks = ask.found(piece)
    wrong = miscounted(masks, ask)
    if wrong is not None:
        return f"all weights are equal: {wrong}"
    kept = expanded(masks, "w", ask.params["w"]).flatten()
    if bool((kept[:-1] & ~kept[1:]).any()):
        place = int((kept[:-1] & ~kept[1:]).int().argmax())
        return f"all {len(kept)} weights are equal, and the one at {place + 1} goes although that at {place} is kept"
    return None


def _plain(piece: Piece) -> bool:
    return piece.plain


def _structural(piece: Piece) -> bool:
    return "structure" in piece.value.needs


def _alone(piece: Piece) -> bool:
    return not _structural(piece)  # what is coupled to a selected layer goes along


def _keeps(piece: Piece) -> bool:
    return not piece.regrows


def _law(name: str, says: str, check: Callable[[Piece, Ask], str | None], **options: Any) -> Law:
    return Law(name, "pruner", says, options.pop("examples", asks), check, **options)


LAWS: tuple[Law, ...] = (
    _law("structure", "masks are bools, named as parameters are, that broadcast to them on their device", _structure),
    _law("exact count", "exactly floor(s * n) elements or units go, of each layer or of all of a rule", _count),
    _law("selection", "what the config does not select stays", _selected, applies=_alone),
    _law("zero", "a sparsity of 0 removes nothing", _zero),
    _law("never empty", "something is left of every layer, or an error says why that cannot be", _emptied),
    _law("inputs unchanged", "parameters, buffers, masks, config and the process are only read", _unchanged),
    _law("deterministic", "the same question has the same answer, whatever was asked or drawn before", _deterministic),
    _law("superset", "a higher sparsity removes what a lower one does, and more", _superset, applies=_keeps),
    _law(
        "rounds", "in rounds, each from the masks of the last, exactly what is asked for goes", _rounds, applies=_keeps
    ),
    _law("idempotent", "the same sparsity once more removes nothing more", _again, applies=_keeps),
    _law(
        "non-finite",
        "a NaN or an infinity is an error that names the parameter",
        _refused,
        examples=_spoilt,
        applies=_plain,
    ),
    _law("ties", "of equal weights the first by index go, also of thousands", _ties, examples=_equal, applies=_plain),
    _law(
        "masked == compact",
        "what is masked can be cut out, and the outputs stay",
        _compact,
        applies=_structural,
        cost=4,
    ),
)
"""In the order in which they are tried: what a broken pruner breaks first says most."""
