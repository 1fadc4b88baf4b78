"""Random small graphs with integer weights: whatever is masked, the compact module computes the same."""

import pytest
import torch
from hypothesis import given, note, reject
from hypothesis import strategies as st

from fprune import Config, Masks, Model, compact, dependency_aware, l1
from fprune.errors import ConfigError
from fprune.layers import unit_mask
from fprune.structure import bisimulate, trace
from tests.zoo.case import answer, difference
from tests.zoo.drawn import Drawn, Program, programs

SPARSITIES = st.sampled_from((0.12, 0.25, 0.5, 0.75))


def image(batch: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (batch, 4, 8, 8), generator=generator).double()


def check(model: Model, masks: Masks) -> Model:
    """Masked and compact agree on the traced image and on others; returns the compact model."""
    masked = model.replace(params=masks.apply(model))
    structure = trace(model, (image(2, 0),))
    small = compact(masked, masks, structure)
    assert bisimulate(model, masks, structure, tolerance=1e-12) == ()
    module = small.model.to_module()
    with torch.no_grad():
        for inputs in ((image(2, 0),), (image(3, 1),), (image(1, 2),)):
            expected = answer(masked, inputs)
            scale = max(float(tensor.abs().max()) for tensor in expected)
            assert difference(expected, answer(module, inputs)) <= 1e-12 or scale == 0
    return small.model


def units(model: Model, sparsity: float) -> Masks:
    config = Config.of([{"op_types": ["Conv2d"], "sparsity": sparsity}])
    try:
        return l1(dependency_aware).masks(model, config, example_inputs=(image(2, 0),))
    except ConfigError as error:
        if "can lose no channel" not in error.message:
            raise
        return reject()  # every convolution of this program reaches the extra output


@given(programs(), st.integers(0, 99))
def test_programs_run(program: Program, seed: int):
    module = Drawn(program, seed)
    places = program.places()
    with torch.no_grad():
        answers = answer(module, (image(3, 0),))
    assert answers[0].shape == (3, 3)
    assert all(tensor.isfinite().all() and tensor.abs().max() < 2**53 for tensor in answers)
    if program.extra is not None:
        channels, size = places[program.extra]
        assert answers[1].shape == (3, channels, size, size)


@given(programs(), st.integers(0, 99), SPARSITIES)
def test_units_go_exactly(program: Program, seed: int, sparsity: float):
    note(str(program))
    model = Model.from_module(Drawn(program, seed))
    masks = units(model, sparsity)
    small = check(model, masks)
    # Masks made of whole units are taken out entirely: what is masked by rows is gone.
    for name, mask in masks.items():
        rows = mask.flatten(1).any(1) if mask.dim() > 1 else mask
        if rows.numel() == model[name].shape[0]:
            assert small[name].shape[0] == int(rows.sum()), name


@given(programs(), st.integers(0, 99), st.sampled_from(("rows", "columns", "both")), st.integers(0, 99))
def test_partial_masks_stay_exact(program: Program, seed: int, what: str, draws: int):
    note(str(program))
    model = Model.from_module(Drawn(program, seed))
    generator = torch.Generator().manual_seed(draws)
    masks = {}
    for layer in model.layers:
        if layer.type != "Conv2d":
            continue
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        if what != "columns":
            mask = mask & unit_mask(torch.rand(layer.units, generator=generator) < 0.6, layer)
        if what != "rows":
            mask = mask & (torch.rand(1, layer.shape[1], 1, 1, generator=generator) < 0.6)
        masks[layer.weight] = mask
    check(model, Masks(masks))


@pytest.mark.slow
@given(programs(), st.integers(0, 10**6), SPARSITIES)
def test_many_more(program: Program, seed: int, sparsity: float):
    model = Model.from_module(Drawn(program, seed))
    check(model, units(model, sparsity))
