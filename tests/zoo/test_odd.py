"""Models that do odd things: compaction is exact, or keeps, but never computes something else and never fails."""

import pytest
import torch

from fprune import Model, compact, inputs
from fprune.structure import bisimulate, trace, verify
from tests.zoo.odd import ODD
from tests.zoo.test_random_tokens import at_random, of_units

GRAINS = {"units": None, "rows": (0,), "columns": (1,)}


def built(name: str) -> tuple[Model, torch.Tensor]:
    build, shape = ODD[name]
    torch.manual_seed(0)
    net = build()
    net = net._apply(lambda t: t.double() if t.is_floating_point() else t).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5)
    return Model.from_module(net), torch.randn(2, *shape, dtype=torch.float64)


@pytest.mark.parametrize("name", ODD)
def test_exact_or_kept(name: str):
    model, x = built(name)
    structure = trace(model, inputs(x))
    kinds = {kind: of_units(model, structure, 0.5, dims, 1) for kind, dims in GRAINS.items()}
    kinds["random"] = at_random(model, 0.5, 2)
    differences = {}
    for kind, masks in kinds.items():
        masked, small = model.replace(masks.apply(model)), compact(model, masks, structure)
        given = [inputs(3 * torch.randn(n, *x.shape[1:], dtype=x.dtype)) for n in (2, 4)]
        found = [gap for some in given for gap in verify(masked, small.model, some)]
        values = bisimulate(model, masks, structure, tolerance=1e-12)
        if max(found) > 1e-12 or values:
            differences[kind] = (max(found), values)
    assert differences == {}


def test_most_of_them_get_smaller():
    """Odd is not a reason to keep everything: units are found in all but those whose every channel matters."""
    kept = {name for name in ODD if not trace(*built(name)).units}
    assert kept == {
        "complex_numbers",
        "fourier_over_tokens",
        "picked_by_a_mask",
        "the_largest_channel_alone",
        "sorted_channels",
        "attention_over_positions",
        "channels_become_rows",
    }
