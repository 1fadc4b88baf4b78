"""A little and a lot: exact counts where the floor bites, and with few channels left."""

import pytest

from tests.zoo.models import CASES
from tests.zoo.support import disagreement, traced, wrong_counts


@pytest.mark.parametrize("sparsity", [0.12, 0.75])
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_other_sparsities(name: str, sparsity: float):
    made = traced(name)
    masked, small = made.compacted(made.masks(sparsity))
    module = small.model.to_module()
    assert disagreement(made.case, masked, module) == {}
    assert wrong_counts(made.case, module, made.selected(sparsity), sparsity) == {}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_nothing_asked_nothing_done(name: str):
    made = traced(name)
    masks = made.masks(0.0)
    assert masks.sparsity(made.model) == 0
    masked, small = made.compacted(masks)
    assert small.lineage.is_identity
    assert small.model == masked
