"""The record of where a run computed, and what it says of another place."""

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

import fprune
from fprune.checkpoint.environment import Environment, environment
from fprune.errors import CheckpointError
from fprune.isolation import isolated

CHANGES: dict[str, Callable[[], Any]] = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "matmul": lambda: torch.set_float32_matmul_precision("medium"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "cudnn": lambda: torch.backends.cudnn.set_flags(_benchmark=True, _fp32_precision=None),
}


def test_it_says_what_torch_says() -> None:
    here = environment()
    assert (here.fprune, here.torch, here.build) == (
        fprune.__version__,
        torch.__version__,
        torch.version.git_version,
    )
    assert (here.deterministic, here.dtype, here.device) == ("off", "float32", "cpu")
    assert here.cuda == (torch.version.cuda or "")
    assert here.threads == torch.get_num_threads()


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_changes_bits_is_a_difference(name: str) -> None:
    before = environment()
    with isolated():
        CHANGES[name]()
        now = environment()
    (difference,) = before.differences(now)
    assert difference == f"{name}: {getattr(before, name)!r} then, {getattr(now, name)!r} now"


def test_warnings_of_nondeterminism_are_not_refusals() -> None:
    with isolated():
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert environment().deterministic == "warn"


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Environment)])
def test_every_field_is_compared_and_survives_json(name: str) -> None:
    here = environment()
    other = attrs.evolve(here, **{name: here.threads + 1 if name == "threads" else "another"})
    assert here.differences(here) == ()
    assert [text.partition(":")[0] for text in here.differences(other)] == [name]
    assert Environment.from_dict(json.loads(json.dumps(other.to_dict()))) == other


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threds": 1}, "threds"),
        ({"threads": True}, "threads"),
        ({"threads": "1"}, "threads"),
        ({"torch": None}, "torch"),
        ({"machine": ["x86_64"]}, "machine"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=rf"environment: .*{named}") as caught:
        Environment.from_dict({**environment().to_dict(), **change})
    assert caught.value.hint


def test_a_missing_field_is_named() -> None:
    fields = environment().to_dict()
    del fields["machine"]
    with pytest.raises(CheckpointError, match="machine: expected str, got nothing"):
        Environment.from_dict(fields)
