"""The zoo itself: every network runs at any batch size, depends on its input and can be trained."""

import pytest
import torch

from tests.zoo.case import answer, difference
from tests.zoo.models import BY_NAME, CASES, resnet18, resnet50

every = pytest.mark.parametrize("name", [case.name for case in CASES])


def test_names_are_unique():
    assert len(BY_NAME) == len(CASES)


@every
@torch.no_grad()
def test_runs(name: str):
    case = BY_NAME[name]
    net = case.net()
    for batch in (1, 2, 3):
        inputs = case.inputs(batch)
        answers = answer(net, inputs)
        assert all(a.shape[0] == batch and a.dtype == torch.float64 and a.isfinite().all() for a in answers)
        assert difference(answers, answer(net, inputs)) == 0, "not deterministic in eval mode"
    assert difference(answer(net, case.inputs(seed=1)), answer(net, case.inputs(seed=2))) > 1e-3


@every
def test_trains(name: str):
    case = BY_NAME[name]
    net = case.net().train()
    torch.stack([a.square().mean() for a in answer(net, case.inputs(4))]).sum().backward()
    assert [name for name, param in net.named_parameters() if param.grad is None] == []


@every
def test_same_weights_every_time(name: str):
    first, second = (BY_NAME[name].net().state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_published_sizes():
    assert sum(param.numel() for param in resnet18().parameters()) == 11_689_512
    assert sum(param.numel() for param in resnet50().parameters()) == 25_557_032
