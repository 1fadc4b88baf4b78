"""Settings for every test: one thread, hypothesis profiles, and globals that must come back as they were."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

torch.set_num_threads(1)  # several workers share few cores; one thread also makes sums the same bits everywhere
os.environ["OMP_NUM_THREADS"] = "1"  # and so for the processes that tests start

settings.register_profile(
    "default",
    max_examples=25,
    deadline=None,  # the first example of a test pays for lazy imports inside torch
    derandomize=True,  # a red run must be red again when someone else repeats it
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("quick", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate])
settings.register_profile("thorough", settings.get_profile("default"), max_examples=300, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


_TIED = tuple(os.path.join(os.path.dirname(__file__), folder, "") for folder in ("laws", "oracle"))
"""Tests that draw small integers or constants as weights, so that sums are exact: ties are meant."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Accept ties where they are meant, and in no other test."""
    for item in items:
        if str(item.path).startswith(_TIED):
            item.add_marker(pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores"))


@pytest.fixture(autouse=True)
def _globals_untouched() -> Iterator[None]:
    """The thread count, default dtype and grad mode outlive no test: a leak would surface in an unrelated one."""
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    yield
    after = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert after == before, f"(threads, default dtype, grad mode) were {before} before this test and are {after} after"
