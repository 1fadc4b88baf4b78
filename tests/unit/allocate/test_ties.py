"""A warning where nothing but the index says which units go, and only there; once for all layers."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from fprune import Config, Model, agp, balanced, block, dependency_aware, erk, globally, isomorphic, l1, level, n_m
from fprune.allocate import per_layer
from fprune.allocate.ties import arbitrary
from fprune.errors import TiedScores
from fprune.masks import Masks
from fprune.testing import check_pruner

DISTINCT = torch.arange(16.0).reshape(4, 4)
EQUAL = torch.full((4, 4), 0.25)


def warned(make: Any) -> list[str]:
    """What `make` warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    assert all(one.category is TiedScores for one in caught)
    return [str(one.message).splitlines()[0] for one in caught]


@pytest.mark.parametrize("make", [level, l1])
@pytest.mark.parametrize("allocation", [per_layer, erk, balanced(2), n_m(1, 2), block(2, 2)], ids=repr)
def test_every_allocation_warns_once_for_all_layers(make: Any, allocation: Any) -> None:
    told = warned(lambda: make(allocation).masks({"a": EQUAL, "b": DISTINCT, "c": 3 * EQUAL}, 0.5))
    assert told == ["FP031 all scores of 'a', 'c' are equal: which units go is decided by their index"]


def test_layers_that_share_an_amount() -> None:
    params = {"a": EQUAL, "b": 100 + DISTINCT, "c": EQUAL}
    told = warned(lambda: level(globally).masks(params, 0.5))  # all but one of `a` go, and then those of `c`
    assert told == ["FP031 all scores of 'a', 'c' are equal: which units go is decided by their index"]
    assert warned(lambda: level(globally).masks({"high": 9 + EQUAL, "low": DISTINCT / 100}, 0.25)) == []


@pytest.mark.parametrize("allocation", [dependency_aware, isomorphic])
def test_allocations_of_units_name_the_family(allocation: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[2].weight.copy_(DISTINCT + 1)
    for tied, found in ((nn.Parameter(torch.ones(4, 4)), ["'0.weight'"]), (nn.Parameter(DISTINCT + 1), [])):
        net[0].weight = tied
        told = warned(lambda: l1(allocation).masks(Model.from_module(net), 0.5, example_inputs=(torch.ones(1, 4),)))
        assert [line.split(" of ")[1].split(" are ")[0] for line in told] == found


def test_no_warning_where_the_index_decides_nothing() -> None:
    assert warned(lambda: level().masks({"w": EQUAL}, [{"sparsity": 0.0}])) == []
    assert warned(lambda: level().masks({"w": EQUAL}, 0.05)) == [], "floor(0.8) of 16 is none"
    nearly = EQUAL.clone()
    nearly[3, 3] += 1
    assert warned(lambda: level().masks({"w": nearly}, 0.5)) == []


def test_what_is_masked_already_has_no_part_in_a_tie() -> None:
    inherited = Masks({"w": torch.arange(16).reshape(4, 4) >= 8})
    assert warned(lambda: level().masks({"w": EQUAL}, 0.5, masks=inherited)) == [], "nothing more goes"
    assert len(warned(lambda: level().masks({"w": EQUAL}, 0.75, masks=inherited))) == 1
    assert warned(lambda: level().masks({"w": DISTINCT}, 0.75, masks=inherited)) == []


def test_a_difference_far_from_the_beginning_is_seen() -> None:
    scores, gone = torch.ones(1000), torch.arange(1000) < 500
    assert arbitrary(scores, gone)
    scores[999] = 2
    assert not arbitrary(scores, gone)
    assert not arbitrary(torch.ones(1000), torch.ones(1000, dtype=torch.bool))
    assert not arbitrary(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_a_run_warns_and_goes_on() -> None:
    net = nn.Linear(4, 4)
    with torch.no_grad():
        net.weight.fill_(1)
    with pytest.warns(TiedScores, match="'weight'"):
        result = (agp(2) | level()).run(net, Config(0.5))
    assert result.report.sparsity == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", TiedScores)
        with pytest.raises(TiedScores) as caught:
            (agp(2) | level()).run(net, Config(0.5))
    assert caught.value.__notes__ == ["in round 1, level()"]


def test_laws_that_users_run_draw_ties_on_purpose() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pruner(level(), laws=["ties"], max_examples=5)


def test_chance_is_no_tie() -> None:
    from fprune import random

    assert warned(lambda: random().masks({"w": EQUAL}, 0.5)) == []


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
@pytest.mark.parametrize("allocation", [globally, erk], ids=["globally", "erk"])
def test_layers_that_are_alike_go_by_name_not_by_the_order_of_a_dict(allocation: Any) -> None:
    params = {"b": torch.zeros(2, 1), "a": torch.zeros(2, 1)}
    masks = [level(allocation).masks(dict(items), 0.25) for items in (params.items(), reversed(params.items()))]
    assert masks[0] == masks[1]
    assert not masks[0]["a"].all()
    assert masks[0].get("b", torch.tensor(True)).all()
