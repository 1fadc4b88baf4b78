"""The same fraction of every layer."""

import torch
from torch import nn

from fprune.allocate import per_layer
from fprune.config import Config
from fprune.criteria import channel_norm, magnitude
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.tree import Flat


def kept(mask: torch.Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def test_every_rule_has_its_own_amount() -> None:
    params = {name: torch.arange(8.0).reshape(8, 1) for name in ("a", "b", "c", "d")}
    rules = [{"sparsity": 0.5}, {"op_names": ["b"], "sparsity": 0.25}, {"op_names": ["c"], "exclude": True}]
    masks = per_layer(channel_norm(), params, Config(rules))
    assert set(masks) == {"a", "b", "d"}
    assert [kept(masks[name]) for name in ("a", "b", "d")] == [[4, 5, 6, 7], [2, 3, 4, 5, 6, 7], [4, 5, 6, 7]]


def test_sparsity_zero_keeps_all_and_says_so() -> None:
    masks = per_layer(magnitude(), {"w": torch.zeros(2, 2)}, Config(0.0))
    assert masks["w"].all()


def test_masked_units_count_and_stay_masked() -> None:
    params = {"w": torch.tensor([[0.0], [9.0], [1.0], [2.0], [0.0], [3.0]])}
    dead = torch.tensor([[True], [False], [True], [True], [True], [True]])
    scope = Scope.of(params, masks=Masks({"w": dead}))
    assert kept(per_layer(channel_norm(), scope, Config(0.5))["w"]) == [2, 3, 5]  # 1 is gone, 0 and 4 go
    assert kept(per_layer(channel_norm(), scope, Config(0.0))["w"]) == [0, 2, 3, 4, 5]


def test_what_a_compaction_removed_counts() -> None:
    lineage = Lineage(Flat({"w": (8, 2)}), Flat({"w": (torch.tensor([1, 2, 4, 5, 7]), None)}))
    scope = Scope.of({"w": torch.tensor([[5.0, 0], [1, 0], [4, 0], [2, 0], [3, 0]])}, lineage=lineage)
    assert kept(per_layer(channel_norm(), scope, Config(0.5))["w"]) == [0, 2, 3, 4]  # 3 of 8 are gone, so one goes
    assert kept(per_layer(channel_norm(), scope, Config(0.25))["w"]) == [0, 1, 2, 3, 4]
    assert int((~per_layer(magnitude(), scope, Config(0.5))["w"]).sum()) == 2  # 6 of 16 are gone, so two go


def test_a_layer_of_one_unit_keeps_it() -> None:
    params = {"w": torch.ones(1, 3), "v": torch.arange(3.0).reshape(3, 1)}
    masks = per_layer(channel_norm(), params, Config(0.9))
    assert kept(masks["w"]) == [0]
    assert kept(masks["v"]) == [2]


def test_models_and_tied_weights() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4, bias=False)})
    net.head.weight = net.embed.weight
    masks = per_layer(channel_norm(), Model.from_module(net), Config(0.5))
    assert set(masks) == {"embed.weight"}
    assert len(kept(masks["embed.weight"])) == 2
