"""What criteria that look at data share: batches that can be read again, a checked loss, nothing changed afterwards."""

import contextlib
import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fprune.criteria.batches import (
    added,
    callable_model,
    check_batches,
    check_data,
    differentiated,
    each,
    finite,
    losses,
    running,
    scalar,
    summed,
    told,
)
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, ScoreError
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.tree import digest


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.ones(2)])


class Indexed:
    """What Python iterates over although it has no `__iter__`."""

    def __getitem__(self, index: int) -> int:
        if index > 1:
            raise IndexError
        return index


def made() -> Iterator[int]:
    yield 1


DATA = TensorDataset(torch.ones(4, 2))


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (iter([1]), r"list_iterator, which can be read only once\nhint: .*a list, or a DataLoader"),
        (made(), "generator, which can be read only once"),
        (map(abs, [1]), "map, which can be read only once"),
        (iter(DataLoader(DATA)), "which can be read only once"),
        ("train", r"is a str, whose items are characters"),
        (torch.ones(2, 3), r"is a Tensor, whose items are rows, not batches\nhint: .*\[tensor\]"),
        (torch.ones(2, 3).numpy(), r"whose items are rows"),
        ({"x": 1}, r"is a dict, whose items are keys, not batches\nhint: .*\[batch\]"),
        (DATA, r"whose items are samples, not batches\nhint: DataLoader\(dataset"),
        (5, "expected a list of batches or a DataLoader, got int"),
        (None, "expected a list of batches or a DataLoader, got NoneType"),
    ],
)
def test_what_is_no_batches_is_refused_with_its_kind(batches: Any, words: str) -> None:
    with pytest.raises(ConfigTypeError, match=words) as caught:
        check_batches("taylor", batches)
    assert str(caught.value).startswith("taylor: ")


@pytest.mark.parametrize("batches", [[], ()])
def test_an_empty_sequence_is_refused(batches: Any) -> None:
    with pytest.raises(ConfigError, match="taylor: there are no batches"):
        check_batches("taylor", batches)


@pytest.mark.parametrize("batches", [[1], (1, 2), range(2), DataLoader(DATA), Stream(), Indexed(), {1, 2}])
def test_what_can_be_read_again_is_taken(batches: Any) -> None:
    check_batches("taylor", batches)
    assert len(list(each(batches, "taylor"))) == len(list(each(batches, "taylor"))) > 0


def test_checking_does_not_start_reading() -> None:
    class Counting:
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("read when the expression is written")

    check_data("taylor", max, Counting())


def test_the_loss_comes_first() -> None:
    with pytest.raises(ConfigTypeError, match=r"loss: expected a function loss\(model, batch\), got list"):
        check_data("taylor", [1], max)


def test_a_source_that_gives_nothing_is_an_error_when_it_is_read() -> None:
    with pytest.raises(ConfigError, match="taylor: there are no batches"):
        list(each({}.keys(), "taylor"))


def test_batches_are_handed_on_untouched_and_not_kept() -> None:
    class Fresh:
        def __init__(self) -> None:
            self.alive: list[weakref.ref[Tensor]] = []
            self.most = 0

        def __iter__(self) -> Iterator[Tensor]:
            for value in range(6):
                gc.collect()
                self.most = max(self.most, sum(ref() is not None for ref in self.alive))
                batch = torch.full((2,), float(value))
                self.alive.append(weakref.ref(batch))
                yield batch
                del batch

    batches = Fresh()
    total = summed(batches, "taylor", lambda batch, where: {"w": batch.sum()})
    assert float(total["w"]) == 30.0
    assert batches.most <= 1, "earlier batches are still in memory"
    given = object()
    assert next(each([given], "taylor"))[1] is given


def test_sums_are_taken_in_the_first_terms_memory() -> None:
    first, second = torch.ones(2), torch.ones(2)
    total = added(added({}, {"w": first}), {"w": second})
    assert total["w"] is first
    assert first.tolist() == [2.0, 2.0]
    assert second.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.5, r"batch 2: the loss is 3.5 \(float\), expected a tensor"),
        (None, r"the loss is None \(NoneType\)"),
        (torch.ones(3), r"the loss has shape \(3,\), expected one number"),
        (torch.ones(1), r"the loss has shape \(1,\)"),
        (torch.tensor(3), r"the loss is torch.int64"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ScoreError, match=words):
        scalar(value, "batch 2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ScoreError, match=f"taylor, batch 1: the loss is {value}"):
        finite(torch.tensor(value), "taylor, batch 1")


NET = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_a_loss_that_does_not_depend_on_the_weights_is_refused() -> None:
    model = Model.from_module(NET).eval()
    outside = copy.deepcopy(NET).eval().requires_grad_(False)
    for cut in (
        lambda m, x: m(x).sum().detach(),
        lambda m, x: torch.tensor(m(x).sum().item()),
        lambda m, x: outside(x).sum(),
    ):
        value = losses(model, cut)
        message = r"batch 0: the loss does not depend on the weights of 0.weight, 3.weight\nhint: call the model that"
        with pytest.raises(ScoreError, match=message):
            torch.func.grad(value)(differentiated(model, model.layers[::2]), torch.ones(2, 3), "batch 0")


def test_errors_of_the_users_function_say_where() -> None:
    model = Model.from_module(NET).eval()
    value = losses(model, lambda m, x: m(x)[7].sum())
    with pytest.raises(IndexError) as caught:
        value(differentiated(model, model.layers), torch.ones(2, 3), "taylor, batch 4")
    assert caught.value.__notes__ == ["in taylor, batch 4"]
    with pytest.raises(KeyError) as other, told("here"):
        raise KeyError("x")
    assert other.value.__notes__ == ["in here"]


def test_tensors_alone_cannot_be_run() -> None:
    with pytest.raises(CompositionError, match=r"(?s)taylor runs the model.*Model.from_module\(net\)"):
        callable_model(Scope.of({"w": torch.ones(2, 2)}), "taylor")


def test_what_masks_removed_is_zero_in_the_model_that_runs() -> None:
    model = Model.from_module(nn.Linear(2, 2))
    broken = model.replace({"weight": torch.tensor([[1.0, float("nan")], [2.0, 3.0]])})
    scope = Scope.of(broken, masks=Masks({"weight": torch.tensor([[True, False], [True, True]])}))
    assert callable_model(scope, "taylor")["weight"].tolist() == [[1.0, 0.0], [2.0, 3.0]]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_running_sets_the_mode_and_leaves_no_trace(training: bool, fails: bool) -> None:
    model = Model.from_module(NET.train())
    before, state = digest(model), torch.get_rng_state()
    with torch.no_grad():
        with contextlib.suppress(ZeroDivisionError), running(Scope.of(model, seed=3), "taylor", training) as own:
            assert {module.training for module in own.skeleton.modules()} == {training}
            torch.set_grad_enabled(True)
            own(torch.randn(5, 3))
            if fails:
                raise ZeroDivisionError
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(model) == before


def test_running_draws_the_same_every_time() -> None:
    scope = Scope.of(Model.from_module(NET), seed=3)
    drawn = []
    for _ in range(2):
        with running(scope, "taylor", training=True) as model:
            drawn.append(model(torch.ones(4, 3)))
    assert torch.equal(*drawn)
