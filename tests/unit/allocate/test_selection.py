"""Exactly the k lowest of all tensors together, ties by name and index, whatever dtype, layout or order."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fprune.allocate import threshold as threshold_module
from fprune.allocate.selection import lowest, lowest_in_rows
from fprune.allocate.threshold import Threshold, threshold
from fprune.errors import ConfigError, ScoreError

VALUES = [-math.inf, -2.5, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, math.inf]


def by_sorting(scores: dict[str, Tensor], k: int) -> dict[str, list[bool]]:
    """What `lowest` promises, in plain Python: sort everything by (score, name, index), take the first k."""
    rows = [
        (value, name, index) for name, tensor in scores.items() for index, value in enumerate(tensor.flatten().tolist())
    ]
    taken = {(name, index) for _, name, index in sorted(rows)[:k]}
    return {name: [(name, i) in taken for i in range(tensor.numel())] for name, tensor in scores.items()}


def flags(marked: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: mask.flatten().tolist() for name, mask in marked.items()}


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Tensor], int]:
    names = draw(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=4))
    values = draw(st.sampled_from([VALUES, VALUES[4:5], VALUES[3:7]]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    lists = {name: draw(st.lists(st.sampled_from(values), max_size=12)) for name in names}
    scores = {name: torch.tensor(found, dtype=dtype) for name, found in lists.items()}
    return scores, draw(st.integers(0, sum(map(len, lists.values()))))


@given(problems())
def test_equals_sorting_by_score_name_and_index(problem: tuple[dict[str, Tensor], int]) -> None:
    scores, k = problem
    marked = lowest(scores, k)
    assert flags(marked) == by_sorting(scores, k)
    assert all(mask.dtype == torch.bool and mask.shape == scores[name].shape for name, mask in marked.items())


@pytest.fixture
def small_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make a few hundred scores take the ways that millions take."""
    monkeypatch.setattr(threshold_module, "_ROOM", 8)
    monkeypatch.setattr(threshold_module, "_SPARE", 0)
    monkeypatch.setattr(threshold_module, "_CPU_CHUNK", 37)


def shapes_of_scores() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, generator=generator)
    return [
        normal,
        normal.abs(),
        normal.round(),
        torch.cat([torch.zeros(1500), normal[:500]]),
        torch.cat([torch.full((1900,), -math.inf), normal[:100]]),
        torch.cat([normal[:1000].sort().values, torch.full((1000,), 7.0)]),
        normal * torch.tensor(10.0) ** torch.arange(2000).remainder(60).sub(30),
        torch.arange(2000.0).remainder(131),
        torch.ones(2000),
    ]


@pytest.mark.usefixtures("small_rooms")
@pytest.mark.parametrize("case", range(9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sampling_and_halving_find_what_sorting_finds(case: int, dtype: torch.dtype) -> None:
    whole = shapes_of_scores()[case].to(dtype)
    scores = {"b": whole[:700].reshape(70, 10), "a": whole[700:701], "c": whole[701:]}
    for k in (1, 2, 99, 700, 1000, 1503, 1900, 1901, 1999):
        assert flags(lowest(scores, k)) == by_sorting(scores, k), k


@pytest.mark.usefixtures("small_rooms")
def test_halving_alone_ends_and_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_module, "_GUESSES", 0)
    for whole in shapes_of_scores():
        scores = {"a": whole[:900], "b": whole[900:]}
        for k in (1, 500, 1999):
            assert flags(lowest(scores, k)) == by_sorting(scores, k), k


@pytest.mark.usefixtures("small_rooms")
@given(st.integers(0, 10**6), st.integers(1, 399), st.sampled_from([1, 3, 1000]))
def test_counts_are_exact_on_both_sides_of_the_threshold(seed: int, k: int, spread: int) -> None:
    whole = torch.randint(-spread, spread + 1, (400,), generator=torch.Generator().manual_seed(seed)).float()
    found = threshold([whole[:123], whole[123:]], k)
    assert found == Threshold(
        whole.sort().values[k - 1].item(), int((whole < found.value).sum()), int((whole <= found.value).sum())
    )
    assert found.below < k <= found.upto


def test_more_scores_than_are_copied_out_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.randn(1_100_000, generator=generator) for name in "ab"}
    order = torch.cat([scores["a"], scores["b"]]).argsort(stable=True)
    for k in (1, 1_234_567):
        marked = lowest(scores, k)
        expected = torch.zeros(2_200_000, dtype=torch.bool)
        expected[order[:k]] = True
        assert torch.equal(torch.cat([marked["a"], marked["b"]]), expected)


@pytest.mark.parametrize("n", [1, 17, 4096, 100_000])
def test_ties_go_by_index_also_in_large_tensors(n: int) -> None:
    for k in {0, 1, n // 3, n - 1, n}:
        assert lowest({"w": torch.ones(n)}, k)["w"].nonzero().flatten().tolist() == list(range(k))


def test_ties_go_by_sorted_name_before_index() -> None:
    scores = {"b": torch.zeros(3), "a10": torch.zeros(2), "a2": torch.zeros(2)}
    assert flags(lowest(scores, 3)) == {"a10": [True, True], "a2": [True, False], "b": [False] * 3}


def test_order_of_the_mapping_and_of_memory_make_no_difference() -> None:
    weight = torch.randint(-2, 3, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    other = torch.zeros(7)
    for k in (1, 50, 150):
        plain = lowest({"w": weight, "x": other}, k)
        assert flags(lowest({"x": other, "w": weight}, k)) == flags(plain)
        assert flags(lowest({"w": weight.to(memory_format=torch.channels_last), "x": other}, k)) == flags(plain)
        assert flags(lowest({"w": weight.transpose(0, 3).contiguous().transpose(0, 3), "x": other}, k)) == flags(plain)


def test_dtypes_mix_without_rounding() -> None:
    third = torch.tensor([1 / 3], dtype=torch.float64)  # lies between two float32 numbers
    near = third.float()
    lower, higher = ("a", "b") if near.double() < third else ("b", "a")
    scores = {"a": near, "b": third}
    marked = lowest(scores, 1)
    assert marked[lower].item() and not marked[higher].item()


def test_integers_are_ranked() -> None:
    scores = {"a": torch.tensor([5, 3]), "b": torch.tensor([2**40 + 1, 2**40])}
    assert flags(lowest(scores, 3)) == {"a": [True, True], "b": [False, True]}


def test_infinite_scores_come_first_and_last() -> None:
    scores = {"w": torch.tensor([math.inf, 1.0, -math.inf, math.inf, -math.inf])}
    assert flags(lowest(scores, 2)) == {"w": [False, False, True, False, True]}
    assert flags(lowest(scores, 4)) == {"w": [True, True, True, False, True]}


def test_empty_tensors_take_part() -> None:
    assert flags(lowest({"a": torch.zeros(0), "b": torch.zeros(2, 0), "c": torch.ones(2)}, 1))["c"] == [True, False]
    assert lowest({}, 0) == {}


def test_a_larger_k_marks_a_superset() -> None:
    scores = {"a": torch.tensor([1.0, 1.0, 2.0]), "b": torch.tensor([1.0, 0.0, 2.0])}
    marked = [torch.cat(list(lowest(scores, k).values())) for k in range(7)]
    assert all(bool((small <= large).all()) for small, large in pairwise(marked))


def test_scores_that_require_gradients_are_left_alone() -> None:
    score = torch.ones(4, requires_grad=True)
    before = score._version
    assert not lowest({"w": score}, 2)["w"].requires_grad
    assert score._version == before


@pytest.mark.parametrize("k", [-1, 5])
def test_impossible_counts_are_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"{k} of 4 scores"):
        lowest({"w": torch.ones(4)}, k)


def test_nan_is_refused() -> None:
    with pytest.raises(ScoreError, match="1 scores are NaN"):
        lowest({"w": torch.tensor([1.0, math.nan, 0.0])}, 1)


def test_denormal_numbers_treated_as_zero_do_not_mislead() -> None:
    scores = {"w": torch.cat([torch.zeros(30), torch.ones(30), torch.full((30,), 1e-41), -torch.ones(30)])}
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        for k in (10, 40, 70, 100):
            assert int(lowest(scores, k)["w"].sum()) == k
    finally:
        torch.set_flush_denormal(False)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 9))
def test_rows_are_selected_like_tensors(seed: int, rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (rows, size), generator=generator).float()
    counts = torch.randint(0, size + 1, (rows,), generator=generator)
    marked = lowest_in_rows(scores, counts)
    for row, k, found in zip(scores, counts.tolist(), marked, strict=True):
        assert torch.equal(found, lowest({"row": row}, k)["row"])


def test_many_short_rows_are_ranked_in_parts() -> None:
    scores = torch.randint(0, 4, (200_000, 4), generator=torch.Generator().manual_seed(0)).float()
    order = scores.argsort(dim=1, stable=True)
    expected = torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, order[:, :2], True)
    assert torch.equal(lowest_in_rows(scores, torch.full((200_000,), 2)), expected)


def test_rows_longer_than_a_block_are_sorted_in_parts() -> None:
    scores = torch.zeros(3, 1 << 21)
    marked = lowest_in_rows(scores, torch.tensor([0, 5, 1 << 21]))
    assert marked.sum(dim=1).tolist() == [0, 5, 1 << 21]
    assert marked[1, :5].all()
