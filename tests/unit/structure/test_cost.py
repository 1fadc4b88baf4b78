"""The cost of a model as a function of what is gone: against counting the masked and the compact model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fprune import Masks, Model, compact, count, inputs
from fprune.errors import StructureError
from fprune.structure import Structure, trace
from fprune.structure.cost import Costs, Totals
from tests.unit.test_count import Block
from tests.unit.toys import Written
from tests.zoo.models import resnet18


def lstm() -> nn.Module:
    parts = {"rnn": nn.LSTM(8, 12, 2, batch_first=True), "fc": nn.Linear(12, 5)}
    return Written(lambda self, x: self.fc(self.rnn(x)[0][:, -1]), **parts)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 6, 3, groups=3)
    )


def contracted() -> nn.Module:
    return Written(lambda self, x: self.fc(torch.einsum("bi,oi->bo", x, self.w)), fc=nn.Linear(6, 3), w=weight(6, 5))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet18": (resnet18, torch.ones(1, 3, 32, 32)),
    "transformer": (Block, torch.ones(2, 7, 24)),
    "lstm": (lstm, torch.ones(2, 4, 8)),
    "grouped": (grouped, torch.ones(1, 3, 9, 9)),
    "einsum": (contracted, torch.ones(4, 5)),
}


def drawn(structure: Structure, seed: int, share: float) -> NDArray[np.bool_]:
    """Some units of every family, and at least one of each stays."""
    rng, removed = np.random.default_rng(seed), np.zeros(structure.labels, np.bool_)
    for family in structure.families:
        order = rng.permutation(family.labels)
        removed[order[: min(int(share * len(order)), len(order) - 1)]] = True
    return removed


def masks(structure: Structure, model: Model, removed: NDArray[np.bool_]) -> Masks:
    """Every slice of every removed unit."""
    found = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in model.items()}
    for family in structure.families:
        for part in family.slices:
            index = part.index[removed[family.labels]].ravel()
            if part.tensor in found and len(index):
                found[part.tensor].index_fill_(part.dim, torch.from_numpy(index), False)
    return Masks(found)


@pytest.mark.parametrize("name", NETS)
def test_the_whole_costs_what_count_says(name: str) -> None:
    make, x = NETS[name]
    net = make()
    counted = count(net, x)
    assert Costs.of(trace(net, x), Model.from_module(net)).whole == Totals(counted.params, counted.flops)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_what_is_left_costs_what_count_says(name: str, share: float) -> None:
    make, x = NETS[name]
    net = make()
    model, structure = Model.from_module(net), trace(net, x)
    removed = drawn(structure, 0, share)
    counted = count(net, x, masks(structure, model, removed))
    assert removed.any()
    assert Costs.of(structure, model)(removed) == Totals(counted.params, counted.flops)


def test_a_compact_model_has_costs_of_its_own() -> None:
    make, x = NETS["transformer"]
    net = make()
    model, structure = Model.from_module(net), trace(net, x)
    gone = masks(structure, model, drawn(structure, 1, 0.5))
    done = compact(model.replace(params=gone.apply(model)), gone, structure)
    counted = count(done.model, x)
    costs = Costs.of(done.structure, done.model)
    assert costs.whole == Totals(counted.params, counted.flops)
    removed = drawn(done.structure, 2, 0.5)
    again = count(done.model, x, masks(done.structure, done.model, removed))
    assert costs(removed) == Totals(again.params, again.flops)


def test_parameters_the_program_does_not_use_count() -> None:
    net = Written(lambda self, x: self.fc(x), fc=nn.Linear(3, 2), spare=weight(5))
    x = torch.ones(1, 3)
    assert count(net, x).params == 13
    assert Costs.of(trace(net, x), Model.from_module(net)).whole.params == 13
    assert Costs.of(trace(net, x)).whole.params == 8


def test_the_costs_of_parts_add_up_to_the_whole() -> None:
    """Every call of this network reads one weight, and a bias where it has one."""
    make, x = NETS["grouped"]
    structure = trace(make(), x)
    removed = drawn(structure, 3, 0.5)
    parts = [Costs.of(structure, only=[f"{i}.weight", f"{i}.bias"])(removed) for i in range(4)]
    weights = [Costs.of(structure, only=[f"{i}.weight"])(removed) for i in range(4)]
    whole = Costs.of(structure)(removed)
    assert Totals(sum(part.params for part in parts), sum(part.flops for part in parts)) == whole
    assert [part.flops for part in weights] == [part.flops for part in parts]
    assert sum(part.params for part in weights) < whole.params


def test_it_does_not_matter_which_units_of_a_family_go() -> None:
    make, x = NETS["resnet18"]
    structure = trace(make(), x)
    costs = Costs.of(structure)
    kept = {family.name: 1 + len(family) // 3 for family in structure.families}
    removed = np.zeros(structure.labels, np.bool_)
    for family in structure.families:
        removed[family.labels[: len(family) - kept[family.name]]] = True
    first = costs.without(kept)
    assert not (first == removed).all()
    assert costs.keeping(kept) == costs(removed) == costs(first)
    assert costs.keeping({}) == costs.whole


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"0.weigth": 2}, "no family '0.weigth'\nhint: Did you mean '0.weight'"),
        ({"0.weight": 0}, "cannot keep 0 units\nhint: it has 8, and keeps 1"),
        ({"0.weight": 9}, "cannot keep 9"),
    ],
)
def test_what_cannot_be_kept_is_refused(kept: dict[str, int], told: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(StructureError, match=told.replace("\n", r"\s")):
        Costs.of(trace(Model.from_module(net), inputs(torch.ones(1, 4)))).keeping(kept)
