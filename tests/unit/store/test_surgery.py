"""A run that compacts in every round goes on, after a stop, exactly as if it had not stopped."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fprune import agp, dependency_aware, finetune, l1, load, speed_up
from fprune.compose.prune import ensure_structure
from fprune.tree import digest, same


class Block(nn.Module):
    """A norm over channels of which some go, and heads; `literal` spells out a size, so that code is generated."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 6)
        self.literal = literal

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.inner(x)).relu()
        return self.outer(y.view(-1, 12) if self.literal else y)


def network(literal: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), Block(literal), nn.Linear(6, 3))


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def train(module: nn.Module) -> None:
    sgd = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(3):
        sgd.zero_grad()
        module(X).square().mean().backward()
        sgd.step()


CONFIG = [{"op_types": ["Linear"], "sparsity": 0.5}, {"op_names": ["2"], "exclude": True}]


@pytest.mark.parametrize("literal", [False, True], ids=["module", "generated"])
def test_stopped_after_any_round(tmp_path: Path, literal: bool) -> None:
    pipeline = agp(3) | l1(dependency_aware) | speed_up() | finetune(train)
    net = network(literal, seed=0)
    whole = list(pipeline.stream(net, CONFIG, example_inputs=X))
    assert len({result.model.num_params for result in whole}) == len(whole), "every round compacts"
    for stop in range(1, len(whole)):
        folder = tmp_path / str(stop)
        list(islice(pipeline.stream(net, CONFIG, example_inputs=X, store=folder), stop))
        rest = list(pipeline.stream(net, CONFIG, example_inputs=X, store=folder))
        assert [result.index for result in rest] == list(range(stop, len(whole)))
        for resumed, made in zip(rest, whole[stop:], strict=True):
            assert digest(resumed.model) == digest(made.model) and same(resumed.masks, made.masks)
            assert same(resumed.lineage, made.lineage) and torch.equal(resumed.model(X), made.model(X))
        loaded = load(folder, network(literal, seed=5), example_inputs=X)
        assert torch.equal(loaded.model(X), whole[-1].model(X))
        assert literal or loaded == whole[-1]
        assert str(ensure_structure(loaded).structure) == str(whole[-1].structure)
