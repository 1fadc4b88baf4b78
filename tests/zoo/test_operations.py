"""Every family of every network pruned at once: exact at every sparsity, whole units and parts of them alike."""

import functools
import random
import re
from collections import Counter
from typing import Any

import pytest
import torch

from fprune import Masks, Model, compact, inputs
from fprune.errors import StructureError
from fprune.structure import Structure, trace
from fprune.structure.families import Slice
from tests.zoo.case import answer, difference
from tests.zoo.operations import BY_NAME, Operation

every = pytest.mark.parametrize("name", sorted(BY_NAME))


@functools.cache
def traced(name: str) -> tuple[Operation, Model, Structure]:
    operation = BY_NAME[name]
    model = Model.from_module(operation.net())
    return operation, model, trace(model, inputs(operation.input()))


def parts(slices: tuple[Slice, ...], which: str) -> list[Slice]:
    """Of what belongs to a unit: all of it, what makes its values, or what reads them."""
    return [s for s in slices if which == "units" or (s.dim == 0) == (which == "rows")]


def masks(model: Model, structure: Structure, sparsity: float, which: str = "units") -> tuple[Masks, int]:
    """Seeded masks that prune every family, and how many units they prune."""
    drawn, out, chosen = random.Random(0), {}, 0
    for family in structure.families:
        pick = drawn.sample(range(len(family)), int(len(family) * sparsity))
        chosen += len(pick)
        for part in parts(family.slices, which):
            if part.tensor in model and pick:
                mask = out.setdefault(part.tensor, torch.ones(model[part.tensor].shape, dtype=torch.bool))
                mask.index_fill_(part.dim, torch.from_numpy(part.index[pick].reshape(-1)), False)
    return Masks(out), chosen


def parted(name: str, pruned: Masks, style: str = "auto") -> tuple[float, Any]:
    """The largest difference of the compact model, on new inputs and another batch size, and the report."""
    operation, model, structure = traced(name)
    masked = model.replace(pruned.apply(model))
    done = compact(model, pruned, structure, style=style)
    with torch.no_grad():
        found = [
            difference(answer(masked, (x,)), answer(done.model, (x,)))
            for x in (operation.input(seed=1), operation.input(3, seed=2))
        ]
    return max(found), done.report


@every
def test_families_and_barriers(name: str) -> None:
    operation, _, structure = traced(name)
    assert sorted(map(len, structure.families)) == sorted(operation.families)
    found = [str(barrier) for barrier in structure.barriers]
    assert [text for text in found if not any(re.search(e, text) for e in operation.barriers)] == []
    assert [e for e in operation.barriers if not any(re.search(e, text) for text in found)] == []


@every
@pytest.mark.parametrize("sparsity", [0.12, 0.5, 0.75])
def test_whole_units_go_and_nothing_changes(name: str, sparsity: float) -> None:
    operation, model, structure = traced(name)
    pruned, chosen = masks(model, structure, sparsity)
    gap, report = parted(name, pruned)
    assert gap < 1e-12
    assert sum(report.removed.values()) == chosen and not report.refused
    styles = {"module"} if operation.same_class else {"module", "graph"}
    assert report.style in (styles if chosen else {"unchanged"})


@every
def test_as_a_graph(name: str) -> None:
    gap, report = parted(name, masks(*traced(name)[1:], 0.5)[0], "graph")
    assert gap < 1e-12 and report.style == "graph"


@every
@pytest.mark.parametrize("style", ["auto", "graph"])
def test_a_compact_model_can_be_traced_and_cut_again(name: str, style: str) -> None:
    """Statistics over the original width, pinned scales and rewritten sizes are programs like any other."""
    operation, model, structure = traced(name)
    done = compact(model, masks(model, structure, 0.34)[0], structure, style=style)
    again = trace(done.model, inputs(operation.input()))
    before, after = (Counter(n for f in s.families if (n := len(f)) > 1) for s in (done.structure, again))
    assert before <= after  # a pruned multi-head attention has widths of its own for keys and values
    pruned, chosen = masks(done.model, again, 0.5)
    twice = compact(done.model, pruned, again, style=style)
    assert sum(twice.report.removed.values()) == chosen and not twice.report.refused
    with torch.no_grad():
        x = (operation.input(3, seed=4),)
        assert difference(answer(done.model.replace(pruned.apply(done.model)), x), answer(twice.model, x)) < 1e-12


@every
@pytest.mark.parametrize("which", ["rows", "columns"])
def test_parts_of_units(name: str, which: str) -> None:
    operation, model, structure = traced(name)
    pruned, chosen = masks(model, structure, 0.5, which)
    gap, report = parted(name, pruned)
    assert gap < 1e-12
    assert (sum(report.removed.values()) == chosen) == (which in operation.suffices)


@every
def test_scattered_entries(name: str) -> None:
    """Masks that are no units at all: hardly anything can go, and nothing may change."""
    _, model, _ = traced(name)
    generator = torch.Generator().manual_seed(3)
    drawn = {key: torch.rand(value.shape, generator=generator) < 0.4 for key, value in model.items()}
    assert parted(name, Masks(drawn))[0] < 1e-12


@every
def test_the_masks_matter(name: str) -> None:
    operation, model, structure = traced(name)
    masked = model.replace(masks(model, structure, 0.5)[0].apply(model))
    with torch.no_grad():
        assert difference(answer(model, (operation.input(),)), answer(masked, (operation.input(),))) > 1e-3


def test_a_projection_that_torch_would_take_for_none() -> None:
    """Of 8 hidden units 4 go, of 4 projected ones none: two sizes that torch tells apart by comparing them."""
    _, model, structure = traced("lstm_projected")
    (hidden,) = structure.family_of("rnn.weight_ih_l0")
    dead = {}
    for part in hidden.slices:
        mask = dead.setdefault(part.tensor, torch.ones(model[part.tensor].shape, dtype=torch.bool))
        mask.index_fill_(part.dim, torch.from_numpy(part.index[:4].reshape(-1)), False)
    with pytest.raises(StructureError, match="as many entries as there are hidden units"):
        compact(model, Masks(dead), structure)
