"""The three pipelines of the first page, on digits, in few rounds: each reaches its sparsity exactly."""

import math

import torch

from fprune import agp, dependency_aware, evaluate, finetune, l1, level, lottery, reset_weight, speed_up
from fprune.demo import Network, accuracy, train

CHANNELS = [{"op_types": ["Conv2d"], "sparsity": 0.7}]


def network() -> Network:
    torch.manual_seed(0)
    return Network()


X = (torch.zeros(2, 1, 8, 8),)


def test_iterative_pruning() -> None:
    pipeline = agp(2) | l1(dependency_aware) | speed_up() | finetune(train) | evaluate(accuracy)
    result = pipeline.run(network(), CHANNELS, example_inputs=X)
    assert result.index == 2 and result.score is not None
    for name, count in result.report.channels.items():
        assert count.removed == math.floor(0.7 * count.total), name
        assert result.model[name].shape[0] == count.total - count.removed


def test_the_lottery_ticket() -> None:
    net = network()
    result = (lottery(2) | finetune(train) | level() | reset_weight()).run(net, 0.8)
    for name, count in result.report.elements.items():
        assert count.removed == math.floor(0.8 * count.total), name
        kept = result.masks[name].expand_as(result.model[name])
        assert torch.equal(result.model[name][kept], net.get_parameter(name).detach()[kept]), (
            "back at the first weights"
        )


def test_rewound_agp() -> None:
    net = network()
    result = (agp(2) | l1(dependency_aware) | finetune(train) | reset_weight()).run(net, CHANNELS, example_inputs=X)
    for name, count in result.report.channels.items():
        assert count.removed == math.floor(0.7 * count.total), name
        kept = result.masks[name].expand_as(result.model[name])
        assert torch.equal(result.model[name][kept], net.get_parameter(name).detach()[kept]), (
            "back at the first weights"
        )
