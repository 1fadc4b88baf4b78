"""The laws draw small integers as weights, so that sums are exact; ties are meant, and no reason for a warning."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Accept ties in the laws, and in no other test."""
    here = str(__file__).removesuffix("conftest.py")
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores"))
