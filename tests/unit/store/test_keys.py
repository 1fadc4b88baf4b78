"""Keys: equal exactly when what a stage reads is the same, in every process; what has no content is refused."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fprune
from fprune import Config, Masks, Model, balanced, dependency_aware, globally, l1, level, n_m, one_shot, speed_up
from fprune.errors import ConfigTypeError
from fprune.store.digests import Digests
from fprune.store.keys import key
from fprune.tree import Flat
from tests.unit.toys import X, net


def made(source: str, name: str = "fn", **around: Any) -> Any:
    """A function from its text, as an edited file would give it."""
    space: dict[str, Any] = {"__name__": "edited", "torch": torch, **around}
    exec(source, space)
    return space[name]


def of(value: object) -> str:
    return key(value, "stage: value")


# What is the same


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (made("def fn(x):\n    return x + 1"), made("# edited\n\ndef fn(x):\n    return x + 1  # more\n")),
        ({"a": 1, "b": [2.5, None]}, {"b": [2.5, None], "a": 1}),
        ({"x", "yy", "zzz"}, {"zzz", "yy", "x"}),
        (torch.ones(2, 3), torch.ones(2, 3)),
        (np.arange(3), np.arange(3)),
        (functools.partial(max, key=abs), functools.partial(max, key=abs)),
        (level().calls[0], level().calls[0]),
        (l1(n_m(2, 4)), l1(n_m(2, 4))),
        (one_shot() | level() | speed_up(), one_shot() | level() | speed_up()),
        (Model.of(net()), Model.of(net())),
        (Config(0.5), Config(0.5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_things_have_equal_keys(one: object, two: object) -> None:
    assert of(one) == of(two)


# What differs


DIFFERENT: dict[str, tuple[object, object]] = {
    "body": (made("def fn(x):\n    return x + 1"), made("def fn(x):\n    return x + 2")),
    "default": (made("def fn(x, y=1):\n    return x"), made("def fn(x, y=2):\n    return x")),
    "keyword default": (made("def fn(x, *, y=1):\n    return x"), made("def fn(x, *, y=2):\n    return x")),
    "name": (made("def fn(x):\n    return x"), made("def gn(x):\n    return x", "gn")),
    "module": (made("def fn(x):\n    return x"), made("def fn(x):\n    return x", __name__="other")),
    "inner function": (
        made("def fn(x):\n    return [f(x) for f in (lambda v: v + 1,)]"),
        made("def fn(x):\n    return [f(x) for f in (lambda v: v - 1,)]"),
    ),
    "global number": (made("def fn(x):\n    return x * N", N=1), made("def fn(x):\n    return x * N", N=2)),
    "global function": (
        made("def helper(x):\n    return x\ndef fn(x):\n    return helper(x)"),
        made("def helper(x):\n    return -x\ndef fn(x):\n    return helper(x)"),
    ),
    "function two calls away": (
        made("def far(x):\n    return x\ndef near(x):\n    return far(x)\ndef fn(x):\n    return near(x)"),
        made("def far(x):\n    return -x\ndef near(x):\n    return far(x)\ndef fn(x):\n    return near(x)"),
    ),
    "method of a global class": (
        made("class A:\n    def go(self):\n        return 1\ndef fn(x):\n    return A().go()"),
        made("class A:\n    def go(self):\n        return 2\ndef fn(x):\n    return A().go()"),
    ),
    "base class": (
        made("class B:\n    n = 1\nclass A(B):\n    pass\ndef fn(x):\n    return A().n"),
        made("class B:\n    n = 2\nclass A(B):\n    pass\ndef fn(x):\n    return A().n"),
    ),
    "lambdas of one line": (lambda x: x + 1, lambda x: x + 2),
    "number": (1, 2),
    "kind of number": (1, 1.0),
    "bool and int": (True, 1),
    "sign of zero": (0.0, -0.0),
    "text and bytes": ("a", b"a"),
    "nesting": (["a", ["b"]], [["a"], "b"]),
    "list and tuple": ([1, 2], (1, 2)),
    "value of a key": ({"a": 1}, {"a": 2}),
    "tensor": (torch.zeros(3), torch.tensor([0.0, 0.0, -0.0])),
    "shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    "array": (np.zeros(2), np.ones(2)),
    "array's dtype": (np.zeros(2), np.zeros(2, dtype=np.int64)),
    "part of a partial": (functools.partial(max, key=abs), functools.partial(max, key=len)),
    "pruner": (level(), l1()),
    "option": (l1(), l1(dependency_aware)),
    "option of an option": (l1(n_m(2, 4)), l1(n_m(1, 4))),
    "allocation": (level(globally), level(balanced())),
    "order of stages": (level() | speed_up(), speed_up() | level()),
    "config": (Config(0.5), Config(0.25)),
    "name of a tensor": (Flat({"a": torch.ones(2)}), Flat({"b": torch.ones(2)})),
    "mask": (Masks({"w": torch.tensor([True])}), Masks({"w": torch.tensor([False])})),
    "weights": (Model.of(net()), Model.of(net(1))),
    "mode": (Model.of(net()), Model.of(net()).eval()),
    "setting of a layer": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "kind of layer": (nn.ReLU(), nn.Tanh()),
    "frozen weight": (Model.of(nn.Linear(2, 2)), Model.of(nn.Linear(2, 2).requires_grad_(False))),
    "key": (fprune.keyed(object(), "a"), fprune.keyed(object(), "b")),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_things_have_different_keys(name: str) -> None:
    one, two = DIFFERENT[name]
    assert of(one) != of(two)


def test_a_hook_is_part_of_a_model() -> None:
    hooked = net()
    hooked[0].register_forward_hook(lambda module, args, out: 2 * out)
    assert of(Model.of(hooked)) != of(Model.of(net()))


def test_a_tie_is_part_of_a_model() -> None:
    apart, tied = (nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)]) for _ in range(2))
    tied[1].weight = tied[0].weight
    with torch.no_grad():
        apart[0].weight.copy_(tied[0].weight)
        apart[1].weight.copy_(tied[0].weight)
    assert of(apart) != of(tied)


def test_the_forward_of_a_users_class_is_part_of_a_model() -> None:
    text = "class Net(torch.nn.Module):\n    def forward(self, x):\n        return x {} 1"
    assert of(made(text.format("+"), "Net")()) != of(made(text.format("-"), "Net")())


def test_a_changed_closure_value_changes_the_key() -> None:
    def scaled(factor: float) -> Any:
        return lambda module: factor

    assert of(scaled(1.0)) == of(scaled(1.0)) != of(scaled(2.0))


def test_functions_that_call_each_other_have_keys() -> None:
    text = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - {})"
    assert of(made(text.format(1), "even")) == of(made(text.format(1), "even")) != of(made(text.format(2), "even"))


def test_a_method_of_a_record_is_known_by_the_record() -> None:
    @attrs.frozen
    class Trainer:
        rate: float

        def train(self, module: nn.Module) -> None: ...

    assert of(Trainer(0.1).train) == of(Trainer(0.1).train) != of(Trainer(0.2).train)


def test_data_is_known_by_its_bytes_and_not_by_its_name() -> None:
    batches = [(X, torch.zeros(5)), (X, torch.ones(5))]
    assert of(batches) == of([(X.clone(), torch.zeros(5)), (X.clone(), torch.ones(5))])
    assert of(batches) != of(batches[::-1])


# What is refused


class Identity:
    """An object that equals only itself."""


HANDLE = Identity()


def reads_a_handle(module: nn.Module) -> object:
    return HANDLE


REFUSED: dict[str, Any] = {
    "DataLoader": lambda: DataLoader([1, 2]),
    "Identity": Identity,
    "TextIOWrapper": lambda: open(os.devnull),  # noqa: SIM115
    "Generator": torch.Generator,
    "generator": lambda: (i for i in range(3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_content_is_refused(name: str) -> None:
    value = REFUSED[name]()
    with pytest.raises(ConfigTypeError) as told:
        key([1, {"data": value}], "taylor(loss, ...): batches")
    assert told.value.message == f"taylor(loss, ...): batches[1]['data']: a cache cannot tell one {name} from another"
    assert told.value.hint.endswith('fprune.keyed(value, "data-v1")')
    if name == "TextIOWrapper":
        value.close()


def test_what_a_function_reads_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigTypeError, match=r"^finetune: reads_a_handle reads 'HANDLE': .* one Identity from"):
        key(reads_a_handle, "finetune")


def test_a_function_that_reads_such_a_thing_can_be_given_a_key() -> None:
    assert of(fprune.keyed(reads_a_handle, "v1")) != of(fprune.keyed(reads_a_handle, "v2"))


# Once only


def test_a_tensor_is_hashed_once_until_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    from fprune.store import digests

    hashed: list[tuple[int, ...]] = []

    def counted(value: Any) -> str:
        if isinstance(value, Tensor):
            hashed.append(tuple(value.shape))
        return digest(value)

    digest = digests.digest
    monkeypatch.setattr(digests, "digest", counted)
    known, tensor = Digests(), torch.zeros(7)
    first = [key(tensor, "x", known), key({"a": tensor}, "x", known)]
    assert hashed == [(7,)]
    tensor.add_(1)
    assert key(tensor, "x", known) != first[0] and len(hashed) == 2


def test_memory_does_not_mistake_a_new_tensor_for_one_that_is_gone() -> None:
    known = Digests()
    for i in range(200):
        tensor = torch.full((3,), float(i))
        assert known.tensor(tensor) == Digests().tensor(tensor)
        del tensor
    assert not vars(known)["_known"]


# In every process


PROGRAM = """
import torch
from tests.unit.store.test_keys import table
print("\\n".join(table()))
"""


def table() -> list[str]:
    """The keys of many things, which do not depend on random draws."""
    rows = [of(value) for name, row in DIFFERENT.items() if name != "frozen weight" for value in row]
    pruned = [one_shot() | l1(dependency_aware) | speed_up(style=style) for style in ("graph", "module")]
    return rows + [of(pipeline.run(net(), 0.5, example_inputs=(torch.ones(2, 6),))) for pipeline in pruned]


def test_keys_are_equal_in_two_processes() -> None:
    root = str(Path(__file__).parents[3])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    env = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", PROGRAM]
    there = subprocess.run(command, capture_output=True, check=True, cwd=root, timeout=120, env=env, text=True).stdout
    assert there.split() == table()


# The wrapper


def test_a_keyed_value_can_do_what_the_value_can() -> None:
    loader = fprune.keyed(DataLoader(list(range(6)), batch_size=2), "six")
    assert [batch.tolist() for batch in loader] == [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert len(loader) == 3 and loader.batch_size == 2 and not callable(loader)
    fn = fprune.keyed(lambda x, y=1: x + y, "add")
    assert callable(fn) and fn(2, y=3) == 5
    with pytest.raises(TypeError):
        iter(fn)
    pairs = fprune.keyed([3, 4], "pairs")
    assert pairs[1] == 4 and 3 in pairs and 5 not in pairs


def test_keyed_values_are_equal_by_key() -> None:
    assert fprune.keyed([1], "a") == fprune.keyed([2], "a") != fprune.keyed([1], "b")
    assert level(fprune.keyed(globally, "g")) == level(fprune.keyed(globally, "g"))
    assert repr(fprune.keyed(len, "v1")) == "keyed(len, 'v1')"


def test_keyed_values_travel() -> None:
    import pickle

    there = pickle.loads(pickle.dumps(fprune.keyed([1, 2], "a")))
    assert there == fprune.keyed([1, 2], "a") and list(there) == [1, 2]


def test_a_keyed_value_works_without_a_cache() -> None:
    batches = fprune.keyed([X], "x-v1")
    loss = fprune.keyed(lambda model, batch: model(batch).square().mean(), "loss-v1")
    given = (one_shot() | fprune.taylor(loss, batches)).run(net(), 0.5)
    bare = (one_shot() | fprune.taylor(lambda model, batch: model(batch).square().mean(), [X])).run(net(), 0.5)
    assert given.masks == bare.masks


@pytest.mark.parametrize("wrong", [3, None, "", b"a"])
def test_a_key_is_a_text(wrong: Any) -> None:
    with pytest.raises(ConfigTypeError, match="keyed: key: expected a text"):
        fprune.keyed([1], wrong)


def test_an_iterator_has_no_key() -> None:
    with pytest.raises(ConfigTypeError, match="can be read only once"):
        fprune.keyed(iter([1]), "a")


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_plain_data_has_one_key(data: Any) -> None:
    import copy

    assert of(data) == of(copy.deepcopy(data))
    assert of(data) != of([data])
