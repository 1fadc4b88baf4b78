"""The pruners under their public names: which criterion, which masks, in a run and outside one."""

import inspect

import attrs
import pytest
import torch
from torch import nn

from fprune.allocate import balanced, globally, n_m, per_layer
from fprune.compose import Stage
from fprune.config import Config
from fprune.criteria import channel_norm, geometric_distance, magnitude
from fprune.errors import CompositionError, ConfigError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.pruners import fpgm, l1, l2, level, random, weights
from fprune.records import Goal, TaskResult
from fprune.scope import Scope
from fprune.tree import Flat

EVERY = [getattr(weights, name) for name in weights.__all__]
PARAMS = {"a.weight": torch.arange(32.0).reshape(8, 4), "a.bias": torch.ones(8), "b": torch.arange(16.0).reshape(4, 4)}


@pytest.mark.parametrize(
    ("pruner", "criterion"),
    [
        (level, magnitude()),
        (l1, channel_norm(p=1)),
        (l2, channel_norm(p=2)),
        (fpgm, geometric_distance()),
    ],
)
@pytest.mark.parametrize("allocation", [per_layer, globally, balanced(4), n_m(2, 4)])
def test_a_pruner_is_its_criterion_and_its_allocation(pruner, criterion, allocation) -> None:
    config = Config(0.5)
    assert pruner(allocation).masks(PARAMS, config) == allocation(criterion, PARAMS, config)
    assert pruner(allocation).masks(PARAMS, config) == pruner.fn(PARAMS, config, allocation)


@pytest.mark.parametrize("pruner", EVERY)
def test_a_pruner_is_a_factory_of_stages_that_prints_itself(pruner) -> None:
    assert isinstance(pruner(), Stage)
    assert repr(pruner()) == f"{pruner!r}()"
    assert repr(pruner(globally)) == f"{pruner!r}(globally)"
    assert repr(pruner(n_m(2, 4))) == f"{pruner!r}(n_m(2, 4))"
    assert pruner(balanced(4)) == pruner(balanced(4)) != pruner(balanced(8))
    assert pruner().gives == {"masks"}
    assert pruner().needs == frozenset()
    assert next(iter(inspect.signature(pruner).parameters)) == "allocation"


@pytest.mark.parametrize("pruner", EVERY)
def test_configs_are_read_in_every_form(pruner) -> None:
    assert pruner().masks(PARAMS, 0.5) == pruner().masks(PARAMS, [{"sparsity": 0.5}])


def test_channels_take_their_bias_along_and_elements_do_not() -> None:
    assert set(l1().masks(PARAMS, 0.5)) == {"a.weight", "a.bias", "b"}
    assert set(level().masks(PARAMS, 0.5)) == {"a.weight", "b"}
    assert set(random().masks(PARAMS, 0.5)) == {"a.weight", "b"}
    assert set(random(granularity="channel").masks(PARAMS, 0.5)) == {"a.weight", "a.bias", "b"}


def test_granularity_is_checked_when_the_stage_is_written() -> None:
    with pytest.raises(ConfigError, match="expected granularity 'element' or 'channel', got 'filter'"):
        random(granularity="filter")
    with pytest.raises(CompositionError, match="random"):
        random(per_layer, "channel")


def test_random_masks_follow_the_seed() -> None:
    params = {"w": torch.ones(16, 16)}
    assert random().masks(params, 0.5, seed=3) == random().masks(params, 0.5, seed=3)
    assert random().masks(params, 0.5, seed=3) != random().masks(params, 0.5, seed=4)


def test_allocations_of_channels_are_given_channels_that_were_drawn() -> None:
    def asks_for_channels(criterion, params, config) -> Masks:
        scope = Scope.of(params)
        scores = criterion(scope, scope.layers, grain="channel")
        return Masks({name: (score < 1)[:, None] for name, score in scores.items()})

    params = {"w": torch.ones(16, 100)}
    assert random(asks_for_channels).masks(params, 0.5)["w"].all()  # a sum over 100 draws would not be below 1
    assert random(asks_for_channels, granularity="channel").masks(params, 0.5)["w"].all()


def start() -> TaskResult:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    return TaskResult.start(net, 0.5)


@pytest.mark.parametrize("pruner", EVERY)
def test_in_a_run_masks_are_applied_and_kept(pruner) -> None:
    before = start()
    state = before.replace(task=attrs.evolve(before.task, goal=Goal(Config(0.5))))
    after = pruner()(state)
    again = pruner()(after)
    assert all((after.model[name][~mask.expand_as(after.model[name])] == 0).all() for name, mask in after.masks.items())
    assert after.masks.sparsity(after.model) > 0.4
    assert again.masks == after.masks  # the same goal asks for nothing more
    assert again.masks.shrinks(after.masks)


@pytest.mark.parametrize("pruner", [level, l1, l2, fpgm, random])
@pytest.mark.parametrize("allocation", [per_layer, globally, balanced(2), n_m(1, 2)])
def test_a_masked_and_a_compact_model_lose_the_same_next(pruner, allocation) -> None:
    """Rows that are masked, and rows that are gone: the scores of the others and the counts agree."""
    generator = torch.Generator().manual_seed(5)
    whole = {
        name: torch.randint(-4, 5, shape, generator=generator).float()
        for name, shape in {"a": (8, 6), "b": (12, 4)}.items()
    }
    keep = {"a": torch.tensor([0, 1, 3, 5, 6, 7]), "b": torch.tensor([1, 2, 3, 4, 5, 6, 9, 10, 11])}
    masks = Masks(
        {name: torch.zeros(len(whole[name]), 1, dtype=torch.bool).index_fill(0, keep[name], True) for name in keep}
    )
    lineage = Lineage(Flat({n: tuple(w.shape) for n, w in whole.items()}), Flat({n: (keep[n], None) for n in keep}))
    masked = Scope.of(dict(masks.apply(whole)), masks=masks, seed=9)
    compact = Scope.of(dict(lineage.slice(whole)), lineage=lineage, seed=9)
    for sparsity in (0.0, 0.25, 0.5):
        one = pruner.fn(masked, Config(sparsity), allocation)
        two = pruner.fn(compact, Config(sparsity), allocation)
        assert two == lineage.slice_masks(one), sparsity
