"""Distances of filters to each other."""

import torch

from fprune.criteria import distance, geometric_distance
from fprune.layers import layers_of
from fprune.masks import Masks
from fprune.scope import Scope


def scores(weight: torch.Tensor) -> torch.Tensor:
    params = {"w": weight}
    return geometric_distance()(params, layers_of(params))["w"]


def test_a_triangle() -> None:
    assert scores(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])).tolist() == [7.0, 8.0, 9.0]


def test_several_blocks_add_up_like_one(monkeypatch) -> None:
    weight = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    blocks = scores(weight)
    monkeypatch.setattr(distance, "_BLOCK", 1000)
    assert torch.equal(blocks, scores(weight))
    monkeypatch.setattr(distance, "_BLOCK", 1)
    assert torch.equal(blocks, scores(weight))


def test_equal_filters_tie_exactly_and_count_no_distance() -> None:
    row = torch.randn(4608, generator=torch.Generator().manual_seed(0))
    assert scores(row.expand(200, -1)).tolist() == [0.0] * 200
    other = torch.randn(4608, generator=torch.Generator().manual_seed(1))
    found = scores(torch.stack([row, other, row, other, row]))
    assert found[0] == found[2] == found[4] < found[1] == found[3]


def test_a_common_offset_does_not_swamp_the_distances() -> None:
    weight = torch.randint(-8, 9, (20, 30), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(scores(weight), scores(weight + 1024.0))


def test_masked_filters_take_no_part() -> None:
    weight = torch.tensor([[0.0, 0.0], [100.0, 0.0], [3.0, 4.0]])
    scope = Scope.of({"w": weight}, masks=Masks({"w": torch.tensor([[True], [False], [True]])}))
    assert geometric_distance()(scope, scope.layers)["w"].tolist() == [5.0, -torch.inf, 5.0]


def test_one_filter_has_no_distance() -> None:
    assert scores(torch.ones(1, 4)).tolist() == [0.0]
