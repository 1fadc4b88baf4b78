"""The label store against brute force: every equation holds under every choice of what is kept."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fprune.structure.labels import Ints, Labels, concatenated, frozen

SIZES = st.sampled_from(((2, 2), (2, 3), (3, 2), (2, 2, 2), (4, 2)))


class Boolean:
    """The oracle: one bool for each base label, rows are conjunctions, an equation rules assignments out."""

    def __init__(self, labels: Labels, rows: Sequence[Ints]) -> None:
        self.labels = labels
        self.base = sorted({int(x) for row in rows for x in labels.resolve(row).flat} - {0})

    def assignments(self, limit: int = 64) -> list[dict[int, bool]]:
        """All of them when there are few, else a seeded sample that holds the corners."""
        n = len(self.base)
        if 2**n <= limit:
            choices = list(product((False, True), repeat=n))
        else:
            drawn = np.random.default_rng(n).random((limit, n)) < 0.7
            choices = [(True,) * n, (False,) * n, *(tuple(c) for c in drawn.tolist())]
            choices += [tuple(i != j for i in range(n)) for j in range(n)]
        return [{0: True, **dict(zip(self.base, c, strict=True))} for c in choices]

    def kept(self, row: Ints, choice: dict[int, bool]) -> list[bool]:
        return [all(choice[int(x)] for x in line) for line in self.labels.resolve(row)]


def implied(labels: Labels, rows: Sequence[Ints], holds: Callable[[Callable[[Ints], list[bool]]], bool]) -> bool:
    """Whether a statement about what is kept is true for every choice of base labels."""
    oracle = Boolean(labels, rows)
    return all(holds(lambda row, choice=choice: oracle.kept(row, choice)) for choice in oracle.assignments())


def closure(n: int, equations: list[tuple[int, int]]) -> list[set[int]]:
    """Classes of `range(n)` under the equations, by repeated merging; 0 is FROZEN like any other name."""
    classes = [{i} for i in range(n)]
    for a, b in equations:
        left, right = (next(c for c in classes if x in c) for x in (a, b))
        if left is not right:
            classes.remove(right)
            left |= right
    return classes


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_unions_are_the_closure(equations: list[tuple[int, int]]) -> None:
    labels = Labels()
    labels.fresh(9)
    for a, b in equations:
        labels.union(np.array([a]), np.array([b]))
    batched = Labels()
    batched.fresh(9)
    if equations:
        a, b = np.array(equations).T
        batched.union(a, b)
    for made in (labels, batched):
        found = made.find(np.arange(10))
        assert {frozenset(np.flatnonzero(found == root).tolist()) for root in found} == {
            frozenset(c) for c in closure(10, equations)
        }
        assert made.find(np.zeros(1, np.int64)) == 0


@given(st.data())
def test_every_equation_is_implied(data: st.DataObject) -> None:
    """Rows of up to two labels are equated at random; whatever way out is taken, each equation holds afterwards."""
    labels = Labels()
    pool = [labels.fresh(6) for _ in range(2)]
    pool += [labels.merge([labels.fresh(2), labels.fresh(3)]), labels.merge([labels.fresh(3), labels.fresh(2)])]
    pool += [frozen(6)]
    asked: list[tuple[Ints, Ints]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
        if data.draw(st.booleans()):
            b = b[data.draw(st.permutations(range(6)))]
        labels.unify(a, b)
        asked.append((a, b))
    every = [row for pair in asked for row in pair]
    assert implied(labels, every, lambda kept: all(kept(a) == kept(b) for a, b in asked))


@given(st.data())
def test_equations_without_products_are_solved_exactly(data: st.DataObject) -> None:
    """Single labels: as fine as the closure, never coarser."""
    labels = Labels()
    rows = [labels.fresh(5), labels.fresh(5), frozen(5)]
    equations: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(0, 3))):
        a, b = (data.draw(st.sampled_from(rows)) for _ in range(2))
        order = data.draw(st.permutations(range(5)))
        labels.unify(a, b[order])
        equations += [(int(x), int(y)) for x, y in zip(a[:, 0], b[order][:, 0], strict=True)]
    found = labels.find(np.arange(11))
    assert len(np.unique(found)) == len(closure(11, equations))
    assert labels.collapsed == 0


@given(SIZES)
def test_split_then_merge_is_the_dimension(sizes: tuple[int, ...]) -> None:
    labels = Labels()
    whole = labels.fresh(int(np.prod(sizes)))
    factors = labels.split(whole, sizes)
    assert [len(f) for f in factors] == list(sizes)
    assert np.array_equal(labels.resolve(labels.merge(factors)), labels.resolve(whole))
    assert labels.collapsed == 0


@given(SIZES)
def test_merge_then_split_gives_the_factors_back(sizes: tuple[int, ...]) -> None:
    labels = Labels()
    factors = [labels.fresh(n) for n in sizes]
    again = labels.split(labels.merge(factors), sizes)
    assert all(np.array_equal(labels.resolve(a), labels.resolve(b)) for a, b in zip(factors, again, strict=True))


def test_a_frozen_factor_vanishes() -> None:
    labels = Labels()
    channels = labels.fresh(3)
    flat = labels.merge([channels, frozen(4)])
    assert flat[:, 0].tolist() == np.repeat(channels[:, 0], 4).tolist()
    again = labels.split(flat, [3, 4])
    assert np.array_equal(again[0], channels) and not again[1].any()


def test_a_label_for_the_whole_dimension_is_kept() -> None:
    """Nothing would be left of the dimension."""
    labels = Labels()
    one = np.repeat(labels.fresh(2)[:1], 6, 0)
    assert [f.any() for f in labels.split(one, [2, 3])] == [False, False]
    assert not labels.live(one)


def test_two_factorisations_of_one_dimension() -> None:
    """Six rows read as 2 x 3 and as 3 x 2: whatever goes, goes in both readings."""
    labels = Labels()
    whole = labels.fresh(6)
    first, second = labels.split(whole, [2, 3]), labels.split(whole, [3, 2])
    rows = [whole, *first, *second]
    assert implied(labels, rows, lambda kept: kept(whole) == kept(labels.merge(first)) == kept(labels.merge(second)))


def test_a_product_equal_to_another() -> None:
    """a = b & c and a = d & e: the two products are identified, column by column."""
    labels = Labels()
    a, outer, inner = labels.fresh(4), labels.fresh(2), labels.fresh(2)
    labels.unify(a, labels.merge([outer, inner]))
    others = [labels.fresh(2), labels.fresh(2)]
    labels.unify(a, labels.merge(others))
    assert np.array_equal(labels.find(others[0]), labels.find(outer))
    assert np.array_equal(labels.find(others[1]), labels.find(inner))
    assert labels.collapsed == 0


def test_freezing_a_product_freezes_its_factors() -> None:
    labels = Labels()
    a, outer, inner = labels.fresh(4), labels.fresh(2), labels.fresh(2)
    labels.unify(a, labels.merge([outer, inner]))
    labels.freeze(a[:1])
    assert labels.live(a) and not labels.live(outer[:1]) and not labels.live(inner[:1])
    assert labels.live(outer[1:]) and labels.live(inner[1:])


def test_a_label_that_would_contain_itself_collapses() -> None:
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    labels.unify(a, np.concatenate([a[::-1], b], 1))
    assert implied(
        labels, [a, b], lambda kept: kept(a) == [x and y for x, y in zip(kept(a[::-1]), kept(b), strict=True)]
    )


def test_more_factors_than_a_product_may_have() -> None:
    labels = Labels()
    wide, factors = labels.fresh(32), [labels.fresh(2) for _ in range(5)]
    labels.unify(wide, labels.merge(factors))
    assert labels.collapsed
    assert len(np.unique(labels.resolve(wide))) == 1


def test_growth_keeps_what_is_known() -> None:
    labels = Labels()
    a, b = labels.fresh(700), labels.fresh(700)
    labels.unify(a, b)
    factors = labels.split(labels.fresh(6), [2, 3])
    before = labels.resolve(labels.merge(factors))
    labels.fresh(5000)
    assert np.array_equal(labels.find(a), labels.find(b))
    assert np.array_equal(labels.resolve(labels.merge(factors)), before)
    assert labels.count == 1 + 1400 + 6 + 5 + 5000


def test_sizes_of_one_and_none() -> None:
    labels = Labels()
    assert labels.fresh(1).tolist() == [[0]] and labels.fresh(0).shape == (0, 1)
    assert labels.count == 1


def test_laid_end_to_end_with_different_widths() -> None:
    labels = Labels()
    single, double = labels.fresh(2), labels.merge([labels.fresh(2), labels.fresh(2)])
    both = concatenated([single, double])
    assert both.shape == (6, 2)
    assert np.array_equal(labels.resolve(both[:2]), labels.resolve(single))
    assert np.array_equal(labels.resolve(both[2:]), labels.resolve(double))
