"""Bad weights, bad scores, ties, and layers that are empty, tiny or about to vanish: rows 16 to 23."""

import math

import attrs
import pytest
import torch
from torch import Tensor, nn

from fprune.allocate import Allocation, balanced, globally, n_m, per_layer
from fprune.compose import pruner
from fprune.config import Config
from fprune.criteria import criterion
from fprune.errors import ConfigError, ModelError, ScoreError, StageError, TiedScores
from fprune.masks import Masks
from fprune.pruners import fpgm, l1, l2, level, random
from fprune.records import Goal, TaskResult

PRUNERS = [level, l1, l2, fpgm, random]
ALLOCATIONS = [per_layer, globally, balanced(2), n_m(1, 2)]


def started(net: nn.Module, sparsity: float, masks: Masks | None = None) -> TaskResult:
    """The state in which the first stage of a round finds a net."""
    result = TaskResult.start(net, 0.5, masks=masks)
    return result.replace(task=attrs.evolve(result.task, goal=Goal(Config(sparsity))))


@pytest.mark.parametrize("make", PRUNERS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_row_16_non_finite_weight(make, allocation: Allocation, bad: float) -> None:
    weight = torch.ones(4, 2, 2)
    weight[2, 0, 1] = weight[3, 1, 0] = weight[3, 1, 1] = bad
    params = {"bn1.weight": torch.arange(8.0).reshape(4, 2), "conv1.weight": weight}
    message = r"'conv1\.weight' has 3 non-finite values \(first at \[2,0,1\]\)\nhint: fix .* or exclude"
    with pytest.raises(ModelError, match=message):
        make(allocation).masks(params, 0.5)
    excluded = [{"sparsity": 0.5}, {"op_names": ["conv1"], "exclude": True}]
    assert "conv1.weight" not in make(allocation).masks(params, excluded)


@pytest.mark.parametrize("make", PRUNERS)
def test_row_17_non_finite_weight_under_a_mask(make) -> None:
    net = nn.Linear(4, 4)
    keep = torch.tensor([[True], [False], [True], [True]])
    with torch.no_grad():
        net.weight[0] = -1.0
        net.weight[1] = torch.tensor([math.nan, math.inf, -math.inf, -1.0])
        net.bias[1] = math.nan
    result = make()(started(net, 0.5, Masks({"weight": keep, "bias": keep.flatten()})))
    row = torch.cat([result.model["weight"][1], result.model["bias"][1:2]])
    assert row.tolist() == [0.0] * 5
    assert not row.signbit().any()
    assert result.model["weight"].isfinite().all()
    zeroed = result.model["weight"][~result.masks["weight"].expand(4, 4)]
    assert not zeroed.signbit().any()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_row_18_non_finite_score(allocation: Allocation) -> None:
    @criterion(grain="channel")
    def relative_size(rows: Tensor) -> Tensor:
        return rows.sum(dim=1) / rows.abs().sum(dim=1)

    @pruner
    def relative(params, config, allocation=per_layer):
        return allocation(relative_size(), params, config)

    params = {"fc.weight": torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])}
    message = r"relative_size\(\) gave 1 non-finite value \(first at \[1\]\) for 'fc\.weight'"
    with pytest.raises(ScoreError, match=message) as caught:
        relative(allocation).masks(params, 0.5)
    assert caught.value.hint


@pytest.mark.parametrize("make", [level, l1, l2, fpgm])
@pytest.mark.parametrize("allocation", [per_layer, globally])
def test_row_19_all_scores_equal(make, allocation: Allocation) -> None:
    params = {"w": torch.full((4096, 4), 0.1)}
    with pytest.warns(TiedScores, match="FP031 all scores of 'w' are equal") as caught:
        mask = make(allocation).masks(params, 0.3)["w"].flatten()
    assert len(caught) == 1
    assert "TiedScores" in caught[0].message.hint
    k = math.floor(0.3 * mask.numel() + 1e-9)
    assert mask.tolist() == [False] * k + [True] * (mask.numel() - k)


@pytest.mark.parametrize("make", PRUNERS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_row_20_empty_layer(make, allocation: Allocation) -> None:
    params = {"empty": torch.zeros(0, 4), "narrow": torch.zeros(4, 0), "w": torch.arange(16.0).reshape(4, 4)}
    assert set(make(allocation).masks(params, 0.5)) == {"w"}
    plan = Config(0.5).resolve(params)
    assert [plan[name].note for name in ("empty", "narrow", "w")] == ["empty", "empty", ""]


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
@pytest.mark.parametrize("make", PRUNERS)
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9, 0.999999999999])
def test_row_21_tiny_layers_keep_one(make, sparsity: float) -> None:
    params = {"one": torch.ones(1, 1), "two": torch.ones(2, 1), "row": torch.ones(1, 2)}
    masks = make().masks(params, sparsity)
    for name, mask in masks.items():
        expected = min(math.floor(sparsity * mask.numel() + 1e-9), mask.numel() - 1)
        assert int((~mask).sum()) == expected, name


@pytest.mark.parametrize("make", [l1, l2, fpgm])
def test_row_22_no_layer_loses_all_its_filters(make) -> None:
    params = {"small": torch.arange(8.0).reshape(4, 2) / 100, "large": 100 + torch.arange(64.0).reshape(32, 2)}
    masks = make(globally).masks(params, 0.5)
    assert int(masks["small"].sum()) >= 1
    assert sum(int((~mask).sum()) for mask in masks.values()) == 18


def test_row_22_a_pruner_that_selects_all_filters_is_refused() -> None:
    @pruner
    def everything(params, config):
        return Masks({name: torch.zeros_like(value, dtype=torch.bool) for name, value in params.items()})

    with pytest.raises(StageError, match=r"everything\(\) masks all 6 elements of 'weight'") as caught:
        everything()(started(nn.Linear(2, 3), 0.5))
    assert caught.value.hint == "lower its sparsity, or exclude the layer"


@pytest.mark.parametrize("make", PRUNERS)
def test_row_23_everything_pruned_globally(make) -> None:
    params = {name: torch.ones(4, 1) for name in "abc"}
    message = r"rule 0: sparsity 0\.99 over 3 layers removes 11 of 12, and every layer keeps one: at most 9"
    with pytest.raises(ConfigError, match=message) as caught:
        make(globally).masks(params, 0.99)
    assert caught.value.hint.startswith("ask for 0.75")
    with pytest.raises(ConfigError, match=r"max_sparsity_per_layer bounds them.*: at most 6\nhint: ask for 0\.5"):
        make(globally).masks(
            params, [{"total_sparsity": 0.75, "max_sparsity_per_layer": {"a": 0.5, "b": 0.5, "c": 0.5}}]
        )
