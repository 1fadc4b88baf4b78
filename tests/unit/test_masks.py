import copy
import pickle

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fprune.errors import ModelError
from fprune.masks import Masks
from fprune.tree import Flat

SHAPES = {"a": (3, 2, 2), "b": (4,), "c": (2, 3)}
KEEP = torch.tensor([True, False])


@st.composite
def masks(draw) -> Masks:
    """Masks that broadcast to `SHAPES`, for any of its names."""
    chosen = draw(st.lists(st.sampled_from(sorted(SHAPES)), unique=True))
    result: dict[str, Tensor] = {}
    for name in chosen:
        shape = tuple(draw(st.sampled_from([1, size])) for size in SHAPES[name])
        shape = shape[draw(st.integers(0, len(shape) - 1)) :] if all(size == 1 for size in shape) else shape
        bits = draw(st.lists(st.booleans(), min_size=torch.Size(shape).numel(), max_size=torch.Size(shape).numel()))
        result[name] = torch.tensor(bits, dtype=torch.bool).reshape(shape)
    return Masks(result)


def params() -> dict[str, Tensor]:
    return {name: torch.arange(1.0, torch.Size(shape).numel() + 1).reshape(shape) for name, shape in SHAPES.items()}


def dense(masks: Masks) -> dict[str, Tensor]:
    return {name: masks.get(name, torch.tensor(True)).expand(shape) for name, shape in SHAPES.items()}


class TestAnd:
    @given(masks(), masks(), masks())
    def test_is_a_semilattice(self, a, b, c):
        assert a & b == b & a
        assert (a & b) & c == a & (b & c)
        assert a & a == a
        assert a & Masks() == a == Masks() & a

    @given(masks(), masks())
    def test_keeps_what_both_keep(self, a, b):
        both, one, two = dense(a & b), dense(a), dense(b)
        assert all(torch.equal(both[name], one[name] & two[name]) for name in SHAPES)

    @given(masks(), masks())
    def test_shrinks_is_the_order_of_and(self, a, b):
        assert (a & b).shrinks(a)
        assert (a & b).shrinks(b)
        assert a.shrinks(Masks())
        below = all(bool((~dense(a)[name] | dense(b)[name]).all()) for name in SHAPES)
        assert a.shrinks(b) == below

    @given(masks(), masks())
    def test_applying_both_is_applying_one_after_the_other(self, a, b):
        assert (a & b).apply(params()) == b.apply(a.apply(params()))

    def test_does_not_expand_what_need_not_be(self):
        channel = Masks({"w": torch.ones(64, 1, 1, 1, dtype=torch.bool)})
        assert (channel & channel)["w"].shape == (64, 1, 1, 1)

    def test_masks_that_do_not_combine(self):
        with pytest.raises(ModelError, match=r"masks\['w'\]: \(2,\) on cpu and \(3,\) on cpu do not combine"):
            Masks({"w": KEEP}) & Masks({"w": torch.ones(3, dtype=torch.bool)})
        with pytest.raises(TypeError):
            Masks({"w": KEEP}) & {"w": KEEP}


class TestApply:
    @given(masks())
    def test_is_idempotent_and_keeps_the_kept(self, a):
        once = a.apply(params())
        assert a.apply(once) == once
        assert all(torch.equal(once[name], params()[name] * dense(a)[name]) for name in SHAPES)

    @given(masks())
    def test_leaves_its_arguments_alone_and_shares_what_does_not_change(self, a):
        given_params, before = params(), params()
        result = a.apply(given_params)
        assert isinstance(result, Flat)
        assert Flat(given_params) == Flat(before)
        for name in SHAPES:
            same = torch.equal(result[name], given_params[name])  # no weight here is 0 with a sign
            assert (result[name] is given_params[name]) == same
            assert same or name in a

    def test_a_gradient_stops_at_the_mask_although_the_value_was_0(self):
        value = torch.tensor([1.0, 0.0], requires_grad=True)
        Masks({"w": KEEP}).apply({"w": value})["w"].sum().backward()
        assert value.grad is not None
        assert value.grad.tolist() == [1.0, 0.0]

    @pytest.mark.parametrize("bad", [-0.0, float("nan"), float("inf"), -float("inf"), -1.0])
    def test_what_is_removed_is_plus_zero_whatever_it_was(self, bad):
        (value,) = Masks({"w": KEEP}).apply({"w": torch.tensor([bad, bad])}).values()
        assert str(value[1].item()) == "0.0"
        assert str(value[0].item()) == str(bad)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.complex64])
    def test_keeps_the_dtype(self, dtype):
        assert Masks({"w": KEEP}).apply({"w": torch.ones(2, dtype=dtype)})["w"].dtype == dtype

    def test_keeps_the_memory_format(self):
        weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
        for shape in [(4, 1, 1, 1), (4, 3, 5, 5)]:
            masked = Masks({"w": torch.rand(shape) > 0.5}).apply({"w": weight})["w"]
            assert masked.stride() == weight.stride()

    def test_gradients_flow_through_what_is_kept(self):
        weight = torch.ones(2, requires_grad=True)
        Masks({"w": KEEP}).apply({"w": weight})["w"].sum().backward()
        assert weight.grad.tolist() == [1.0, 0.0]

    def test_unknown_name(self):
        with pytest.raises(ModelError, match=r"masks\['conv1.wieght'\]") as caught:
            Masks({"conv1.wieght": KEEP}).apply({"conv1.weight": torch.ones(2)})
        assert caught.value.hint == "Did you mean 'conv1.weight'?"

    @pytest.mark.parametrize("shape", [(3,), (2, 1, 1), (2, 2), (4, 3), (0, 1)])
    def test_shapes_that_do_not_broadcast(self, shape):
        wrong = Masks({"w": torch.ones(shape, dtype=torch.bool)})
        for use in (wrong.apply, wrong.check, wrong.sparsity, wrong.counts):
            with pytest.raises(ModelError, match=r"does not broadcast to the parameter's \(4, 2\)"):
                use({"w": torch.ones(4, 2)})
        with pytest.raises(ModelError, match="does not broadcast"):
            wrong.expanded_count("w", (4, 2))


class TestCounting:
    @given(masks())
    def test_counts_are_those_of_the_expanded_masks(self, a):
        counts = a.counts(params())
        assert list(counts) == sorted(SHAPES)
        for name, mask in dense(a).items():
            assert counts[name] == (int((~mask).sum()), mask.numel())
            assert a.expanded_count(name, SHAPES[name]) == counts[name][0]
        total = sum(mask.numel() for mask in dense(a).values())
        assert a.sparsity(params()) == sum(removed for removed, _ in counts.values()) / total

    def test_nothing_to_remove(self):
        assert Masks().sparsity({}) == 0.0
        assert Masks({"e": torch.ones(0, 3, dtype=torch.bool)}).sparsity({"e": torch.ones(0, 3)}) == 0.0
        assert Masks({"s": torch.tensor(False)}).sparsity({"s": torch.tensor(1.0)}) == 1.0


class TestMapping:
    def test_is_sorted_immutable_and_by_value(self):
        source = {"b": KEEP, "a": ~KEEP}
        ours = Masks(source)
        source["c"] = KEEP
        assert list(ours) == ["a", "b"]
        assert "b" in ours
        assert ours == Masks([("b", KEEP.clone()), ("a", ~KEEP)]) == Masks(ours)
        assert ours != Masks({"a": ~KEEP})
        assert ours != Masks({"a": ~KEEP, "b": KEEP.reshape(1, 2)})
        assert ours != dict(ours)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            ours._data = Flat()
        with pytest.raises(TypeError):
            hash(ours)

    @pytest.mark.parametrize("wrong", [torch.ones(2), torch.ones(2, dtype=torch.uint8), True, None, [True]])
    def test_only_bool_tensors(self, wrong):
        with pytest.raises(ModelError, match=r"masks\['w'\]: expected a bool tensor, got"):
            Masks({"w": wrong})

    @given(masks(), st.sets(st.sampled_from(sorted(SHAPES))))
    def test_select_and_without_split(self, a, names):
        assert a.select(names) & a.without(names) == a
        assert not a.without(names).keys() & names

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_copies_and_pickles(self, again):
        assert again(Masks({"a": KEEP})) == Masks({"a": KEEP})

    def test_map(self):
        assert Masks({"a": KEEP}).map(torch.logical_not) == Masks({"a": ~KEEP})


class TestRepr:
    @pytest.mark.parametrize(
        ("shape", "text"),
        [
            ((2, 1, 1, 1), "1/2 channels"),
            ((1, 2), "1/2 channels"),
            ((2,), "1/2 channels"),
            ((1, 1), "1/1 channels"),
            ((2, 2), "2/4 elements"),
        ],
    )
    def test_counts_the_masks_own_elements(self, shape, text):
        bits = torch.arange(torch.Size(shape).numel()) % 2 == 1
        assert repr(Masks({"w": bits.reshape(shape)})) == f"Masks(w={text})"

    def test_is_one_line_however_many(self):
        many = Masks({f"{index:02}": KEEP for index in range(30)})
        assert repr(many).endswith("03=1/2 channels, 26 more)")
        assert repr(Masks()) == "Masks()"

    def test_html_has_a_row_for_each(self):
        html = Masks({"<w>": KEEP})._repr_html_()
        assert "&lt;w&gt;" in html
        assert "50.0%" in html
