"""Random token models: whatever is masked, the compact module computes the same, value by value."""

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor

from fprune import Masks, Model, compact
from fprune.structure import Structure, bisimulate, masked_units, trace
from tests.zoo.case import answer, difference
from tests.zoo.drawn import Op
from tests.zoo.drawn_tokens import TOKENS, VOCABULARY, DrawnTokens, Program, programs

SHARES = st.sampled_from((0.12, 0.5, 0.75))
SEEDS = st.integers(0, 99)


def tokens(program: Program, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if program.ids:
        return torch.randint(VOCABULARY, (batch, TOKENS), generator=generator)
    return torch.randn(batch, TOKENS, 3, generator=generator, dtype=torch.float64)


def of_units(model: Model, structure: Structure, share: float, dims: tuple[int, ...] | None, draws: int) -> Masks:
    """Units drawn from every family, masked in all of their slices or in those along some dimensions only."""
    generator = torch.Generator().manual_seed(draws)
    masks: dict[str, Tensor] = {}
    for family in structure.families:
        pick = torch.randperm(len(family), generator=generator)[: int(share * len(family))].numpy()
        for part in family.slices:
            if part.tensor in model and (dims is None or part.dim in dims) and len(pick):
                mask = masks.setdefault(part.tensor, torch.ones(model[part.tensor].shape, dtype=torch.bool))
                mask.index_fill_(part.dim, torch.from_numpy(part.index[pick].reshape(-1)), False)
    return Masks(masks)


def at_random(model: Model, share: float, draws: int) -> Masks:
    """Filters of every parameter, whatever they belong to, and single entries besides."""
    generator = torch.Generator().manual_seed(draws)
    masks: dict[str, Tensor] = {}
    for name, param in model.items():
        if not param.dim():
            continue
        filters = torch.rand(len(param), generator=generator) >= share
        entries = torch.rand(param.shape, generator=generator) >= share / 4
        masks[name] = entries & filters.view(-1, *[1] * (param.dim() - 1))
    return Masks(masks)


def check(program: Program, model: Model, structure: Structure, masks: Masks) -> tuple[int, int]:
    """Exact on the traced input and on others, value by value; ties stay. Returns units removed and units kept."""
    masked = model.replace(params=masks.apply(model))
    small = compact(model, masks, structure)
    module = small.model.to_module()
    with torch.no_grad():
        for x in (tokens(program, 2, 0), tokens(program, 3, 1), tokens(program, 1, 2)):
            expected = answer(masked, (x,))
            scale = max(float(tensor.abs().max()) for tensor in expected)
            assert difference(expected, answer(module, (x,))) <= 1e-12 or scale < 1e-6
    assert bisimulate(model, masks, structure, tolerance=1e-12) == ()
    if small.report.style == "module":
        assert small.model.ties == model.ties
    shapes = {name: tuple(tensor.shape) for name, tensor in model.items()}
    asked = masked_units(structure, masks, shapes)
    chosen = sum(int(asked[family.labels].sum()) for family in structure.families)
    gone = sum(small.report.removed.values())
    kept = sum(int(why.partition(" ")[0]) for why in small.report.refused.values())
    assert gone + kept == chosen, "every unit that is asked for is gone, or refused by name"
    return gone, kept


def made(program: Program, seed: int) -> tuple[Model, Structure]:
    note(str(program))
    model = Model.from_module(DrawnTokens(program, seed))
    return model, trace(model, (tokens(program, 2, 0),))


@given(programs(), SEEDS, SHARES, SEEDS)
def test_units(program: Program, seed: int, share: float, draws: int):
    model, structure = made(program, seed)
    check(program, model, structure, of_units(model, structure, share, None, draws))


@given(programs(), SEEDS, SHARES, st.sampled_from(((0,), (1,))), SEEDS)
def test_rows_or_columns_alone(program: Program, seed: int, share: float, dims: tuple[int, ...], draws: int):
    model, structure = made(program, seed)
    check(program, model, structure, of_units(model, structure, share, dims, draws))


@given(programs(), SEEDS, SHARES, SEEDS)
def test_random_filters(program: Program, seed: int, share: float, draws: int):
    model, structure = made(program, seed)
    check(program, model, structure, at_random(model, share, draws))


@pytest.mark.slow
@given(programs(), st.integers(0, 10**6), SHARES, SEEDS)
def test_many_more(program: Program, seed: int, share: float, draws: int):
    model, structure = made(program, seed)
    for masks in (of_units(model, structure, share, None, draws), at_random(model, share, draws)):
        check(program, model, structure, masks)


@pytest.mark.parametrize("by_hand", [0, 1])
def test_what_queries_and_keys_share_goes_only_as_a_whole(by_hand: int):
    """Places in a head of queries and keys: gone when the keys are 0 there, kept while neither side is."""
    program = Program((Op("linear", (0,), (8, 1)), Op("attention", (1, 1), (2, 2, by_hand, 0))), False)
    model = Model.from_module(DrawnTokens(program, 0))
    structure = trace(model, (tokens(program, 2, 0),))
    q, k = "parts.1.q.weight", "parts.1.k.weight"
    values = structure.family_of("parts.1.v.weight")
    shared = [family for family in structure.family_of(k) if family not in values]
    assert [len(family) for family in shared] == [4]
    assert any(family in shared for family in structure.family_of(q))
    rows = torch.tensor([True, False, True, True] * 2)[:, None]
    assert check(program, model, structure, Masks({k: rows})) == (1, 0)
    assert check(program, model, structure, Masks({q: rows})) == (0, 1), "its bias is left"
