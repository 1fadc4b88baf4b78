import copy
import functools
import pickle
import subprocess
import sys

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune import tree
from fprune.errors import FpruneError, ModelError
from fprune.tree import Flat, digest, fold_in, generator, same

NAN = float("nan")
names = st.text("abc.", min_size=1, max_size=4)
flats = st.dictionaries(names, st.integers(-3, 3), max_size=6)


@attrs.frozen(eq=False)
class Record:
    a: object
    b: object = None
    cache: object = attrs.field(default=None, eq=False)


class TestFlat:
    @given(flats)
    def test_is_the_mapping_it_was_made_from_sorted(self, data):
        flat = Flat(data)
        assert dict(flat) == data
        assert list(flat) == sorted(data)
        assert len(flat) == len(data)
        assert flat == Flat(list(data.items())[::-1]) == Flat(flat)
        assert flat == data

    @given(flats, flats)
    def test_merged_prefers_the_other(self, a, b):
        assert dict(Flat(a).merged(b)) == {**a, **b}

    @given(flats, st.sets(names))
    def test_without_and_select_split(self, data, dropped):
        flat = Flat(data)
        kept = flat.without(dropped)
        assert kept.merged(flat.select(dropped & data.keys())) == flat
        assert not dropped & kept.keys()

    def test_select_unknown_name(self):
        with pytest.raises(KeyError):
            Flat({"a": 1}).select(["b"])

    def test_map(self):
        assert Flat({"a": 1, "b": 2}).map(str) == Flat({"a": "1", "b": "2"})
        assert Flat({"a": 1}).map_with_name(lambda name, value: f"{name}{value}") == Flat({"a": "a1"})

    def test_compares_tensors_by_value(self):
        assert Flat({"a": torch.ones(2)}) == Flat({"a": torch.ones(2)})
        assert Flat({"a": torch.ones(2)}) != Flat({"a": torch.zeros(2)})
        assert Flat({"a": torch.ones(2)}) != Flat({"a": torch.ones(2, 1)})
        assert Flat({"a": 1}) != Flat({"b": 1})
        assert Flat({"a": 1}) != 3

    def test_is_immutable_and_unhashable(self):
        source = {"a": 1}
        flat = Flat(source)
        source["a"] = 2
        assert flat["a"] == 1
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            flat._data = {}
        with pytest.raises(TypeError):
            flat["a"] = 2
        with pytest.raises(TypeError):
            hash(flat)

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda flat: pickle.loads(pickle.dumps(flat))])
    def test_copies_and_pickles(self, again):
        flat = Flat({"b": torch.tensor([1.0, NAN]), "a": (1, "x")})
        assert again(flat) == flat

    def test_refuses_names_that_are_not_text_or_occur_twice(self):
        with pytest.raises(ModelError, match="expected a name, got 1"):
            Flat({1: 2})
        with pytest.raises(ModelError, match="'a' occurs twice"):
            Flat([("a", 1), ("a", 2)])

    def test_repr_is_one_line(self):
        assert repr(Flat({"w": torch.zeros(2, 3), "n": 1})) == "Flat(n=1, w=float32[2, 3])"
        assert "\n" not in repr(Flat({"w": torch.zeros(100, 3)}))


class TestSame:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN])),
            (torch.arange(6.0).reshape(2, 3).t(), torch.arange(6.0).reshape(2, 3).t().contiguous()),
            (torch.tensor(2.0 + 1j).conj(), torch.tensor(2.0 - 1j)),
            (torch.zeros(0, 3), torch.zeros(0, 3)),
            (torch.zeros((), dtype=torch.bfloat16), torch.zeros((), dtype=torch.bfloat16)),
            (torch.zeros(2, device="meta"), torch.zeros(2, device="meta")),
            (torch.eye(3).to_sparse(), torch.eye(3).to_sparse()),
            ({"a": [torch.ones(1), (1, None)]}, {"a": [torch.ones(1), (1, None)]}),
            (Record(torch.ones(1), cache=1), Record(torch.ones(1), cache=2)),
            (NAN, -NAN),
            (functools.partial(max, 1), functools.partial(max, 1)),
        ],
    )
    def test_equal(self, a, b):
        assert same(a, b)
        assert same(b, a)

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (torch.tensor([0.0]), torch.tensor([-0.0])),
            (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
            (torch.zeros(2), torch.zeros(1, 2)),
            (torch.zeros(2), torch.zeros(2, device="meta")),
            (torch.tensor([1.0]), 1.0),
            (torch.eye(3).to_sparse(), torch.ones(3, 3).to_sparse()),
            ({"a": 1}, {"a": 1, "b": 2}),
            ((1, 2), [1, 2]),
            ((1, 2), (1, 2, 3)),
            (Record(1), Record(2)),
            (Record(1), 1),
            (1, None),
            (lambda: 1, lambda: 1),
            (functools.partial(max, 1), functools.partial(max, 2)),
            (nn.Linear(2, 2), 3),
        ],
    )
    def test_different(self, a, b):
        assert not same(a, b)
        assert not same(b, a)

    @given(st.lists(st.sampled_from([0.0, -0.0, 1.0, NAN]), min_size=3, max_size=3), st.integers(0, 2))
    def test_agrees_with_bytes(self, values, at):
        a = torch.tensor(values)
        b = a.clone()
        b[at] = 1.0
        assert same(a, b) == (a.numpy().tobytes() == b.numpy().tobytes())

    def test_modules(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        twin = copy.deepcopy(net)
        assert same(net, twin)
        assert not same(net, copy.deepcopy(net).eval())
        other = copy.deepcopy(net)
        other[2].p = 0.25
        assert not same(net, other)
        other = copy.deepcopy(net)
        other[0].weight.requires_grad_(False)
        assert not same(net, other)
        other = copy.deepcopy(net)
        other[1].running_mean.add_(1)
        assert not same(net, other)
        other = copy.deepcopy(net)
        other[0].register_forward_hook(print)
        assert not same(net, other)

    def test_modules_with_hooks_registered_in_another_process_order(self):
        nets = [nn.Linear(2, 2), nn.Linear(2, 2)]
        nets[1].load_state_dict(nets[0].state_dict())
        for net in nets:
            net.register_forward_hook(print)
        assert same(*nets)

    def test_modules_with_and_without_ties(self):
        tied, loose = (nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)]) for _ in range(2))
        tied[1].weight = tied[0].weight
        with torch.no_grad():
            for layer in loose:
                layer.weight.copy_(tied[0].weight)
        assert not same(tied, loose)

    def test_modules_that_refer_to_themselves(self):
        class Selfish(nn.Module):
            def __init__(self):
                super().__init__()
                self.refs = [self]
                self.method = self.forward
                self.generator = torch.Generator()

        assert same(Selfish(), Selfish())


class TestDigest:
    def test_ignores_order_layout_and_kind_of_mapping(self):
        a, b = torch.arange(6.0).reshape(2, 3), torch.ones(1)
        assert digest({"a": a, "b": b}) == digest({"b": b, "a": a.t().contiguous().t()})
        assert len(digest({})) == 32

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (torch.zeros(4), torch.zeros(2, 2)),
            (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
            (torch.tensor([0.0]), torch.tensor([-0.0])),
            ({"ab": 1}, {"a": 1}),
            ({"a": "b"}, {"b": "a"}),
            ([[1], 2], [1, [2]]),
            (1, 1.0),
            (1, True),
            (None, "None"),
            (print, len),
            (Record(1), Record(2)),
            (torch.zeros(0, 2), torch.zeros(2, 0)),
            (nn.Linear(2, 2), nn.Linear(2, 2)),
            (torch.zeros(2, device="meta"), torch.zeros(2)),
        ],
    )
    def test_separates(self, a, b):
        assert digest(a) != digest(b)

    def test_reads_every_dtype(self):
        for dtype in (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.complex64):
            assert digest(torch.ones(3).to(dtype)) != digest(torch.zeros(3).to(dtype))

    def test_of_module_sees_flags_and_data_but_not_identity(self):
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        assert digest(net) == digest(copy.deepcopy(net))
        assert digest(net) != digest(copy.deepcopy(net).eval())

    def test_is_the_same_in_another_process(self):
        code = (
            "import torch; from fprune.tree import *; "
            "print(digest({'a': torch.arange(5.), 'b': {'x', 'y', 'z'}}), fold_in(7, 'a', 3))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
        )
        assert run.stdout == f"{digest({'a': torch.arange(5.0), 'b': {'x', 'y', 'z'}})} {fold_in(7, 'a', 3)}\n"

    def test_refuses_what_has_no_stable_bytes(self):
        with pytest.raises(FpruneError, match="cannot digest <object"):
            digest({"a": object()})


class TestSeeds:
    @given(st.integers(), st.lists(st.integers() | st.text()))
    def test_fold_in_is_a_function_into_63_bits(self, seed, data):
        value = fold_in(seed, *data)
        assert value == fold_in(seed, *data)
        assert 0 <= value < 2**63

    def test_fold_in_separates(self):
        keys = [(0,), (1,), (0, 1), (0, "1"), (0, "ab", "c"), (0, "a", "bc"), (0, "abc"), (0, 1, 2), (0, 2, 1), (-1,)]
        assert len({fold_in(*key) for key in keys}) == len(keys)

    def test_fold_in_values_are_fixed(self):
        # a change here would change every seeded mask that users have
        assert fold_in(0, 3, "finetune") == 6228051638312753237

    def test_generator_is_on_the_cpu_and_leaves_the_global_one_alone(self):
        before = torch.get_rng_state()
        draws = [torch.rand(4, generator=generator(5, "conv1.weight")) for _ in range(2)]
        assert torch.equal(*draws)
        assert not torch.equal(draws[0], torch.rand(4, generator=generator(5, "conv2.weight")))
        assert torch.equal(before, torch.get_rng_state())


class TestSizes:
    def test_nbytes_and_count(self):
        leaves = {"w": torch.zeros(2, 3), "b": [torch.zeros(3, dtype=torch.bool), None, 4]}
        assert (tree.nbytes(leaves), tree.count(leaves)) == (27, 9)
        assert tree.count(Record(leaves, Flat(leaves))) == 18
        assert tree.count(nn.BatchNorm1d(3)) == 13
        assert tree.count(nn.Linear(2, 2, device="meta")) == 0


def test_map_reaches_nested_containers():
    assert tree.map(lambda a, b: a + b, {"x": (1, [2])}, {"x": (10, [20])}) == {"x": (11, [22])}
