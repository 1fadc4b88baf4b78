"""Recipes are pipelines like any other, and what they promise is what a run does."""

import math

import pytest
import torch
from torch import nn

import fprune
from fprune import annealing, auto_compress, count, evaluate, evolve, level, lottery, nested, per_layer, random
from fprune.errors import ConfigError
from tests.unit.schedules.playing import IMAGES, Residual, sparsities

LABELS = torch.tensor([0, 1])


def train(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(IMAGES), LABELS).backward()
        optimizer.step()


def score(module: nn.Module) -> float:
    return -float(nn.functional.cross_entropy(module(IMAGES), LABELS))


def net() -> Residual:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual()


def test_auto_compress_shrinks_in_every_round_to_what_its_search_found() -> None:
    pipeline = auto_compress(3, train, score, iterations=2, search=annealing(stop=60))
    results = list(pipeline.stream(net(), [{"op_types": ["Conv2d"], "total_sparsity": 0.5}], example_inputs=(IMAGES,)))
    assert len(results) == 3
    sizes = {"stem": 72, "inner": 864, "outer": 96, "down": 64}
    params = [count(result.module(), (IMAGES,)).params for result in results]
    assert params == sorted(params, reverse=True) and len(set(params)) == 3
    for t, result in enumerate(results, 1):
        asked = sparsities(result.goal)
        total = 1 - 0.5 ** (t / 3)
        assert sum(asked[name] * n for name, n in sizes.items()) == pytest.approx(total * sum(sizes.values()))
        assert asked["outer"] == asked["down"]
        for name, share in asked.items():
            gone = result.report.channels[f"{name}.weight"]
            assert gone.removed == math.floor(share * gone.total + 1e-9), "what was removed before is kept, and no more"
        assert any("nested: kept the config" in note for note in result.notes)
    again = pipeline.run(net(), [{"op_types": ["Conv2d"], "total_sparsity": 0.5}], example_inputs=(IMAGES,))
    assert again == results[-1]


def test_auto_compress_of_single_weights_with_another_search() -> None:
    pipeline = auto_compress(
        2, train, score, per_layer, search=evolve(population=3, generations=2), granularity="element", iterations=1
    )
    results = list(pipeline.stream(net(), [{"total_sparsity": 0.6}], example_inputs=(IMAGES,)))
    total = sum(layer.weight.numel() for layer in net().children())
    for t, result in enumerate(results, 1):
        asked = sum(
            share * net().get_parameter(f"{name}.weight").numel() for name, share in sparsities(result.goal).items()
        )
        assert asked == pytest.approx((1 - 0.4 ** (t / 2)) * total)
        # Compaction removes the weights that read a channel of which nothing is left, on top of what is masked.
        assert sum(gone.removed for gone in result.report.elements.values()) >= math.floor(asked + 1e-6)


def test_it_is_a_pipeline_that_its_text_builds_again() -> None:
    pipeline = auto_compress(3, train, score)
    assert eval(repr(pipeline), {**vars(fprune), "train": train, "score": score}) == pipeline


def test_senseless_options_are_refused_when_written() -> None:
    for options in ({"rho": -1.0}, {"iterations": 0}, {"granularity": "head"}):
        with pytest.raises(ConfigError):
            auto_compress(3, train, score, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("search", [annealing(), evolve(population=4, generations=2)], ids=repr)
def test_a_search_begins_where_the_callers_masks_do(search: fprune.Schedule) -> None:
    """Weights that are masked before the run count, so that every candidate removes the total and no more."""
    masks = random().masks(fprune.Model.from_module(net()), [{"op_names": ["inner"], "sparsity": 0.55}])
    pipeline = search | level() | evaluate(score)
    config = [{"total_sparsity": 0.6}]
    total = sum(layer.weight.numel() for layer in net().children())
    results = list(pipeline.stream(net(), config, masks=masks))
    for result in results:
        assert sum(gone.removed for gone in result.report.elements.values()) == math.floor(0.6 * total)
        assert sparsities(result.goal)["inner"] >= masks.counts(net_params())["inner.weight"][0] / 864 - 1e-9
    assert list(pipeline.stream(results[3])) == results[4:], "a setting is the same in every round"


def net_params() -> fprune.Model:
    return fprune.Model.from_module(net())


def test_a_search_in_every_round_of_another_schedule_removes_what_that_one_says() -> None:
    pipeline = lottery(4) | nested(annealing(stop=70) | level() | evaluate(score), keep="config") | level()
    total = sum(layer.weight.numel() for layer in net().children())
    for t, result in enumerate(pipeline.stream(net(), [{"total_sparsity": 0.8}]), 1):
        removed = sum(gone.removed for gone in result.report.elements.values())
        assert removed == math.floor((1 - 0.2 ** (t / 4)) * total + 1e-9)
