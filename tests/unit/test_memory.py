"""A run holds four models at most however many rounds it has, the caller's own `Model` among them."""

from pathlib import Path

import pytest

from tests.benchmarks.memory import MEGABYTE, measured

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
MOST = 4.0  # the origin, the state before and after, a mask of each, and what is made on the way
WITH_MODULE = MOST + 1  # a module is copied, so that it may change while the run goes on
SLACK = 16 * MEGABYTE  # what loads on the way
JOBS = [("mlp", "level()"), ("mlp", "level(globally)"), ("cnn", "l1(dependency_aware) | speed_up()")]


def test_memory_does_not_grow_with_the_rounds() -> None:
    few, many = (measured("mlp", "level()", rounds, 32 * MEGABYTE, "Model") for rounds in (4, 12))
    assert many["rounds"] == 13, "agp(n) has a round for the start as well"
    # a state more would be 32 MB, and a mask more in each round 64 MB
    assert many["peak"] <= 1.05 * few["peak"] + SLACK, f"memory grows with the rounds: {few}, {many}"
    assert many["peak"] <= MOST * many["n"] + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True], ids=["kept nowhere", "stored"])
@pytest.mark.parametrize(("network", "stage"), JOBS)
def test_a_large_model_is_held_four_times_at_most(network: str, stage: str, stored: bool) -> None:
    few, many = (measured(network, stage, rounds, 400 * MEGABYTE, "Model", stored=stored) for rounds in (10, 50))
    assert abs(many["peak"] - few["peak"]) <= 0.05 * few["peak"]
    assert many["peak"] <= MOST * many["n"] + SLACK


@pytest.mark.slow
@pytest.mark.parametrize(("network", "stage"), JOBS)
def test_a_module_is_copied_once(network: str, stage: str) -> None:
    found = measured(network, stage, 10, 400 * MEGABYTE, "module")
    assert found["peak"] <= WITH_MODULE * found["n"] + SLACK
