"""Compacting in every round and compacting once at the end: the same channels, the same size."""

import pytest
import torch

from fprune import agp, dependency_aware, l1, speed_up
from tests.zoo.case import Case, answer, difference
from tests.zoo.models import BY_NAME, CASES, IMAGE, resnet18
from tests.zoo.support import disagreement, traced, wrong_counts

DEEP = {"resnet50", "mobilenet_v2", "densenet", "inception", "mobilenet_v3"}
names = [pytest.param(case.name, marks=[pytest.mark.slow] if case.name in DEEP else []) for case in CASES]


@pytest.mark.parametrize("name", names)
def test_every_round_or_once(name: str):
    case = BY_NAME[name]
    arguments = {"example_inputs": case.inputs()}
    often = (agp(3) | l1(dependency_aware) | speed_up()).run(case.net(), case.config(0.5), **arguments)
    masked = (agp(3) | l1(dependency_aware)).run(case.net(), case.config(0.5), **arguments)
    once = speed_up()(masked)
    assert often.lineage.kept == once.lineage.kept
    assert often.model.num_params == once.model.num_params
    assert wrong_counts(case, often.module(), traced(name).selected(), 0.5) == {}
    assert disagreement(case, masked.model, often.module()) == {}


def test_resnet18_at_full_width():
    """Half of every convolution's channels: 3,055,880 of 11,689,512 parameters, in one step and in four."""
    case = Case("full", resnet18, IMAGE, ("Conv2d",))
    net = case.net().float()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sum(param.numel() for param in net.parameters()) == 11_689_512
    often = (agp(3) | l1(dependency_aware) | speed_up()).run(net, case.config(0.5), example_inputs=(image,))
    masked = (agp(3) | l1(dependency_aware)).run(net, case.config(0.5), example_inputs=(image,))
    once = speed_up()(masked)
    for result in (often, once):
        module = result.module()
        assert sum(param.numel() for param in module.parameters()) == 3_055_880
        with torch.no_grad():
            assert difference(answer(masked.model, (image,)), answer(module, (image,))) < 1e-4
    assert often.lineage.kept == once.lineage.kept
