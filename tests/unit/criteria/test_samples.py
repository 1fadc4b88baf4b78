"""Batches fall into samples along the first dimension of every tensor, whatever holds the tensors."""

from collections import UserDict, namedtuple
from typing import Any

import pytest
import torch

from fprune.criteria.samples import taken_apart
from fprune.errors import ScoreError
from fprune.tree import same

Pair = namedtuple("Pair", ["x", "y"])
X, Y = torch.arange(12.0).reshape(4, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "second"),
    [
        (X, X[1:2]),
        ((X, Y), (X[1:2], Y[1:2])),
        ([X, [Y, "name"]], [X[1:2], [Y[1:2], "name"]]),
        (Pair(X, Y), Pair(X[1:2], Y[1:2])),
        ({"y": Y, "x": X, "flag": True, "scale": torch.tensor(2.0)}, None),
        (UserDict(x=X, y=Y), {"x": X[1:2], "y": Y[1:2]}),
    ],
)
def test_a_sample_is_a_batch_of_one(batch: Any, second: Any) -> None:
    rows, rebuild = taken_apart(batch, "batch 0")
    assert all(len(tensor) == 4 for tensor in rows)
    found = rebuild([tensor[1] for tensor in rows])
    if second is None:
        second = {"y": Y[1:2], "x": X[1:2], "flag": True, "scale": torch.tensor(2.0)}
    assert type(found) is type(second)
    assert same(found, second)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, Y[:3]), "tensors of 4, 3 rows"),
        ({"x": "text"}, "no tensor"),
        (torch.tensor(1.0), "no tensor"),
        (X[:0], "tensors of 0 rows"),
    ],
)
def test_what_does_not_fall_into_samples_is_refused(batch: Any, words: str) -> None:
    with pytest.raises(ScoreError, match=f"fisher, batch 3: the batch has {words}"):
        taken_apart(batch, "fisher, batch 3")
