"""Random scores depend on the seed and the name, and on nothing else."""

import torch

from fprune.criteria import uniform
from fprune.layers import layers_of
from fprune.lineage import Lineage
from fprune.scope import Scope
from fprune.tree import Flat


def draw(params: dict[str, torch.Tensor], seed: int = 0, grain: str = "element") -> dict[str, torch.Tensor]:
    scope = Scope.of(params, seed=seed)
    return uniform()(scope, scope.layers, grain=grain)


def test_other_layers_and_their_order_make_no_difference() -> None:
    a, b = torch.zeros(3, 2), torch.zeros(4, 4)
    for grain in ("element", "channel"):
        alone = draw({"a": a}, grain=grain)["a"]
        assert torch.equal(alone, draw({"b": b, "a": a}, grain=grain)["a"])
        assert torch.equal(alone, draw({"a": a, "b": b}, grain=grain)["a"])


def test_seed_and_name_make_a_difference() -> None:
    weight = torch.zeros(8, 8)
    found = draw({"a": weight, "b": weight})
    assert not torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], draw({"a": weight}, seed=1)["a"])


def test_values_and_dtype_of_the_weight_make_no_difference() -> None:
    one = draw({"a": torch.zeros(3, 5)})["a"]
    assert torch.equal(one, draw({"a": torch.ones(3, 5, dtype=torch.float64)})["a"])
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(one, draw({"a": torch.zeros(3, 5)})["a"])
    finally:
        torch.set_default_dtype(torch.float32)


def test_scores_lie_in_the_unit_interval_and_spread() -> None:
    found = draw({"a": torch.zeros(100, 100)})["a"]
    assert 0 <= found.min() < 0.01
    assert 0.99 < found.max() < 1
    assert abs(found.mean() - 0.5) < 0.02


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw({"a": torch.zeros(3, 2)})
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_left_after_compaction_keeps_its_numbers() -> None:
    whole = {"w": torch.zeros(5, 4)}
    rows, columns = torch.tensor([0, 2, 3]), torch.tensor([1, 3])
    lineage = Lineage(Flat({"w": (5, 4)}), Flat({"w": (rows, columns)}))
    scope = Scope.of({"w": torch.zeros(3, 2)}, lineage=lineage)
    elements = uniform()(scope, scope.layers, grain="element")["w"]
    assert torch.equal(elements, draw(whole)["w"][rows][:, columns])
    channels = uniform()(scope, scope.layers, grain="channel")["w"]
    assert torch.equal(channels, draw(whole, grain="channel")["w"][rows])
    assert uniform() == uniform()
    assert layers_of(whole)[0].units == 5
