"""One budget for the layers of a rule, with bounds, compared with a greedy walk in plain Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fprune.allocate import globally, uniform_plus
from fprune.allocate.budget import removals
from fprune.config import Config
from fprune.criteria import channel_norm, magnitude
from fprune.errors import ConfigError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.scope import Scope
from fprune.tree import Flat


def greedy(
    values: dict[str, list[float]], count: int, limits: dict[str, int], dead: dict[str, set[int]]
) -> dict[str, list[bool]]:
    """Take what is dead; then the lowest by (score, name, index), passing over layers at their limit."""
    taken = {(name, index) for name, found in dead.items() for index in found}
    for _, name, index in sorted((v, name, i) for name, found in values.items() for i, v in enumerate(found)):
        if len(taken) < count and (name, index) not in taken and sum(n == name for n, _ in taken) < limits[name]:
            taken.add((name, index))
    return {name: [(name, i) not in taken for i in range(len(found))] for name, found in values.items()}


@st.composite
def problems(draw: st.DrawFn):
    names = draw(st.permutations(["a", "b", "c"]))
    values = {name: draw(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=8)) for name in names}
    dead = {
        name: draw(st.sets(st.integers(0, len(found) - 1), max_size=len(found) - 1)) if draw(st.booleans()) else set()
        for name, found in values.items()
    }
    cap = draw(st.sampled_from([None, 0.3, 0.5, 0.9, 1.0]))
    sparsity = draw(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.75]))
    return values, dead, cap, sparsity if cap is None else min(sparsity, cap)


@given(problems(), st.sampled_from(["sparsity", "total_sparsity"]))
def test_equals_a_greedy_walk(problem, key: str) -> None:
    values, dead, cap, sparsity = problem
    params = {name: torch.tensor(found).reshape(-1, 1) for name, found in values.items()}
    masks = Masks(
        {name: torch.tensor([[i not in gone] for i in range(len(values[name]))]) for name, gone in dead.items() if gone}
    )
    total = sum(map(len, values.values()))
    limits = {
        name: max(removals(1.0 if cap is None else cap, len(found)), len(dead[name])) for name, found in values.items()
    }
    wanted = int(sparsity * total + 1e-9)
    scope = Scope.of(params, masks=masks)
    config = Config([{key: sparsity, **({} if cap is None else {"max_sparsity_per_layer": cap})}])
    if wanted > sum(limits.values()):
        with pytest.raises(ConfigError, match=f"at most {sum(limits.values())}"):
            globally(channel_norm(), scope, config)
        return
    found = globally(channel_norm(), scope, config)
    count = max(wanted, sum(map(len, dead.values())))
    assert {name: mask.flatten().tolist() for name, mask in found.items()} == greedy(values, count, limits, dead)


def test_rules_do_not_share_their_budgets() -> None:
    params = {name: torch.arange(8.0).reshape(8, 1) + 10 * i for i, name in enumerate("abcd")}
    rules = [{"op_names": ["a", "b"], "sparsity": 0.25}, {"op_names": ["c", "d"], "total_sparsity": 0.5}]
    removed = {name: int((~mask).sum()) for name, mask in globally(magnitude(), params, Config(rules)).items()}
    assert removed == {"a": 4, "b": 0, "c": 7, "d": 1}


def test_what_compactions_removed_counts_in_the_budget_and_in_the_bound() -> None:
    lineage = Lineage(Flat({"a": (8, 1), "b": (8, 1)}), Flat({"a": (torch.tensor([0, 1, 2, 3]), None)}))
    params = {"a": torch.tensor([[1.0], [2.0], [3.0], [4.0]]), "b": torch.arange(5.0, 13.0).reshape(8, 1)}
    scope = Scope.of(params, lineage=lineage)
    plain = globally(channel_norm(), scope, Config([{"total_sparsity": 0.5}]))
    assert [int((~plain[name]).sum()) for name in "ab"] == [3, 1]  # 8 of 16 go: 4 are gone, a keeps one
    bounded = globally(channel_norm(), scope, Config([{"total_sparsity": 0.5, "max_sparsity_per_layer": 0.625}]))
    assert [int((~bounded[name]).sum()) for name in "ab"] == [1, 3]


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
def test_infeasible_budgets_say_what_is_reachable() -> None:
    params = {"a": torch.ones(4, 1), "b": torch.ones(4, 1)}
    rule = {"total_sparsity": 0.6, "max_sparsity_per_layer": {"a": 0.25, "b": 0.5}}
    with pytest.raises(
        ConfigError, match=r"rule 0: sparsity 0\.6 .* removes 4 of 8, .*at most 3\nhint: ask for 0\.375"
    ):
        globally(channel_norm(), params, Config([rule]))
    reachable = Config([{**rule, "total_sparsity": 0.375}])
    assert sum(int((~mask).sum()) for mask in globally(channel_norm(), params, reachable).values()) == 3
    with pytest.raises(ConfigError, match=r"removes 7 of 8, and every layer keeps one: at most 6\nhint: ask for 0\.75"):
        globally(channel_norm(), params, Config(0.9))


def test_a_bound_by_name_binds_that_layer() -> None:
    params = {"a": torch.arange(8.0).reshape(8, 1), "b": torch.arange(8.0, 16.0).reshape(8, 1)}
    rule = {"total_sparsity": 0.5, "max_sparsity_per_layer": {"a": 0.5}}
    removed = {name: int((~mask).sum()) for name, mask in globally(channel_norm(), params, Config([rule])).items()}
    assert removed == {"a": 4, "b": 4}


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
def test_biases_follow_their_channels() -> None:
    params = {"a.weight": torch.eye(4), "a.bias": torch.ones(4), "b.weight": 2 * torch.eye(4)}
    masks = globally(channel_norm(), params, Config(0.25))
    assert masks["a.bias"].tolist() == masks["a.weight"].flatten().tolist() == [False, False, True, True]
    assert masks["b.weight"].all()


def test_the_hint_names_only_bounds_that_there_are() -> None:
    params = {name: torch.ones(10, 10) for name in ("a", "b", "c")}
    capped = [{"total_sparsity": 0.5, "max_sparsity_per_layer": 0.5}]
    with pytest.raises(ConfigError, match=r"hint: ask for 0\.[0-9]+, or take another allocation, such as globally$"):
        uniform_plus(magnitude(), params, Config(0.8))
    with pytest.raises(ConfigError, match=r"hint: ask for 0\.[0-9]+, or raise max_sparsity_per_layer, or take another"):
        uniform_plus(magnitude(), params, Config(capped))
