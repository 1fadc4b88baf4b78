import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune.errors import ModelError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.tree import Flat, same

SHAPES: dict[str, tuple[int, ...]] = {"a": (4, 3), "b": (4,), "c": (2, 3, 2), "mean": (4,)}
BUFFERS = frozenset({"mean"})


def dense() -> Flat[Tensor]:
    return Flat(SHAPES).map(lambda shape: torch.arange(1.0, torch.Size(shape).numel() + 1).reshape(shape))


@st.composite
def kept_of(draw, shapes) -> Flat:
    kept = {}
    for name in draw(st.lists(st.sampled_from(sorted(shapes)), unique=True)):
        dims = [
            draw(st.none() | st.sets(st.integers(0, size - 1), min_size=1).map(sorted).map(torch.tensor))
            if size
            else None
            for size in shapes[name]
        ]
        if any(dim is not None for dim in dims):
            kept[name] = tuple(dims)
    return Flat(kept)


@st.composite
def masks_of(draw, shapes) -> Masks:
    result = {}
    for name in draw(st.lists(st.sampled_from(sorted(shapes.keys() - BUFFERS)), unique=True)):
        shape = tuple(draw(st.sampled_from([1, size])) for size in shapes[name])
        count = torch.Size(shape).numel()
        bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        result[name] = torch.tensor(bits, dtype=torch.bool).reshape(shape)
    return Masks(result)


@st.composite
def lineages(draw, shapes=SHAPES) -> Lineage:
    return Lineage(Flat(shapes), draw(kept_of(shapes)), draw(masks_of(shapes)), BUFFERS)


@st.composite
def chains(draw, length=2) -> list[Lineage]:
    """Lineages that follow one another: each starts from the shapes that the one before leads to."""
    result, shapes = [], dict(SHAPES)
    for _ in range(length):
        result.append(draw(lineages(shapes)))
        shapes = {name: result[-1].compact_shape(name) for name in shapes}
    return result


def expanded(masks: Masks) -> Masks:
    """Comparable by meaning: every mask in full."""
    return Masks({name: mask.expand(SHAPES[name]).clone() for name, mask in masks.items()})


class TestSliceAndExpand:
    @given(lineages())
    def test_slice_undoes_expand(self, lineage):
        compact = lineage.slice(dense())
        assert lineage.slice(lineage.expand(compact, fill=-1)) == compact
        assert {name: tuple(value.shape) for name, value in compact.items()} == {
            name: lineage.compact_shape(name) for name in SHAPES
        }

    @given(lineages(), st.sampled_from([0.0, -7.0]))
    def test_expand_puts_the_original_values_back_and_fills_the_rest(self, lineage, fill):
        restored = lineage.expand(lineage.slice(dense()), fill)
        present = lineage.expand(lineage.slice(dense().map(lambda value: torch.ones_like(value, dtype=torch.bool))))
        for name, value in dense().items():
            assert torch.equal(restored[name], torch.where(present[name], value, fill))

    @given(lineages())
    def test_arguments_are_left_alone(self, lineage):
        before, state = dense(), copy.deepcopy(lineage)
        values = dense()
        lineage.expand(lineage.slice(values))
        assert values == before
        assert lineage == state

    def test_bools_are_filled_with_false(self):
        lineage = Lineage(Flat({"w": (3,)}), Flat({"w": (torch.tensor([1]),)}))
        assert lineage.expand({"w": torch.tensor([True])}, fill=1)["w"].tolist() == [False, True, False]

    def test_names_it_does_not_know_pass_through(self):
        extra = {"added.bias": torch.ones(2)}
        lineage = Lineage(Flat({"w": (3,)}), Flat({"w": (torch.tensor([1]),)}))
        assert lineage.slice(extra)["added.bias"] is extra["added.bias"]
        assert lineage.expand(extra)["added.bias"] is extra["added.bias"]

    def test_wrong_shapes_are_refused_by_name(self):
        lineage = Lineage(Flat({"w": (3,)}), Flat({"w": (torch.tensor([1]),)}))
        with pytest.raises(ModelError, match=r"'w': expected the original shape \(3,\), got \(1,\)"):
            lineage.slice({"w": torch.ones(1)})
        with pytest.raises(ModelError, match=r"'w': expected the compact shape \(1,\), got \(3,\)"):
            lineage.expand({"w": torch.ones(3)})


class TestMasks:
    @given(st.data())
    def test_expanded_masks_keep_exactly_what_the_compact_model_keeps(self, data):
        lineage = data.draw(lineages())
        compact = {name: lineage.compact_shape(name) for name in SHAPES}
        masks = data.draw(masks_of(compact))
        result = lineage.expand_masks(masks)
        assert not result.keys() & BUFFERS
        for name in SHAPES.keys() - BUFFERS:
            full = masks.get(name, torch.tensor(True)).expand(compact[name])
            want = lineage.expand({name: full})[name] & lineage.masks.get(name, torch.tensor(True))
            assert torch.equal(result.get(name, torch.tensor(True)).expand(SHAPES[name]), want)

    @given(st.data())
    def test_slicing_expanded_masks_gives_them_back(self, data):
        lineage = data.draw(lineages())
        compact = {name: lineage.compact_shape(name) for name in SHAPES}
        masks = data.draw(masks_of(compact))
        pure = Lineage(lineage.shapes, lineage.kept, buffers=lineage.buffers)
        back = pure.slice_masks(pure.expand_masks(masks))
        for name in SHAPES.keys() - BUFFERS:
            full = masks.get(name, torch.tensor(True)).expand(compact[name])
            assert torch.equal(back.get(name, torch.tensor(True)).expand(compact[name]), full)

    def test_channel_masks_stay_small(self):
        lineage = Lineage(Flat({"w": (4, 8, 3, 3)}), Flat({"w": (torch.tensor([0, 3]), None, None, None)}))
        masks = lineage.expand_masks(Masks({"w": torch.tensor([True, False]).reshape(2, 1, 1, 1)}))
        assert masks["w"].flatten().tolist() == [True, False, False, False]
        assert masks["w"].shape == (4, 1, 1, 1)

    def test_masks_of_names_the_original_lacks_are_left_out(self):
        assert Lineage(Flat({"w": (2,)})).expand_masks(Masks({"added.bias": torch.tensor([True])})) == Masks()


class TestThen:
    @given(chains(2))
    def test_slices_as_one_after_the_other(self, chain):
        first, second = chain
        both = first.then(second)
        assert both.slice(dense()) == second.slice(first.slice(dense()))
        compact = both.slice(dense())
        assert both.expand(compact) == first.expand(second.expand(compact))

    @given(chains(3))
    def test_is_associative(self, chain):
        a, b, c = chain
        left, right = a.then(b).then(c), a.then(b.then(c))
        assert left.kept == right.kept
        assert left.shapes == right.shapes
        assert expanded(left.expand_masks(Masks())) == expanded(right.expand_masks(Masks()))

    @given(st.data())
    def test_expands_masks_as_one_after_the_other(self, data):
        first, second = data.draw(chains(2))
        shapes = {name: second.compact_shape(name) for name in SHAPES}
        masks = data.draw(masks_of(shapes))
        one, two = first.then(second).expand_masks(masks), first.expand_masks(second.expand_masks(masks))
        assert expanded(one) == expanded(two)

    @given(lineages())
    def test_identity_is_neutral(self, lineage):
        compact = Flat({name: lineage.compact_shape(name) for name in SHAPES})
        assert lineage.then(Lineage(compact, buffers=BUFFERS)) == lineage
        assert Lineage(Flat(SHAPES), buffers=BUFFERS).then(lineage) == lineage

    def test_remembers_what_was_folded(self):
        shapes = Flat({"w": (2,)})
        both = Lineage(shapes, folded=frozenset({"a"})).then(Lineage(shapes, folded=frozenset({"b"})))
        assert both.folded == {"a", "b"}
        assert not both.is_identity


def test_identity_of_a_model():
    lineage = Lineage.identity(Model.from_module(nn.BatchNorm1d(3)))
    assert lineage.is_identity
    assert lineage.shapes["running_mean"] == (3,)
    assert lineage.buffers == {"running_mean", "running_var", "num_batches_tracked"}
    assert lineage.expand_masks(Masks()) == Masks()
    masks = Masks({"weight": torch.tensor([True, False, True])})
    assert lineage.expand_masks(masks) == masks


@given(lineages())
def test_equality_copies_and_pickles(lineage):
    assert copy.deepcopy(lineage) == lineage == pickle.loads(pickle.dumps(lineage))
    assert same(lineage, lineage)
    assert lineage != Lineage(Flat({"other": (1,)}))
    assert "\n" not in repr(lineage)


def test_repr_says_how_much_is_gone():
    assert repr(Lineage(Flat({"w": (2, 3)}))) == "Lineage(1 tensors, unchanged)"
    lineage = Lineage(Flat({"w": (2, 3)}), Flat({"w": (torch.tensor([0]), None)}))
    assert repr(lineage) == "Lineage(1 of 1 tensors changed, 3 of 6 elements gone)"
    with pytest.raises(TypeError):
        hash(lineage)
