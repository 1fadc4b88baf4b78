"""What training carries: private copies, cut along with the model, refused where it cannot be told what it is of."""

from typing import Any

import pytest
import torch
from torch import nn

from fprune import TaskResult, agp, dependency_aware, finetune, l1, level, one_shot, reset_weight, speed_up
from fprune.errors import CompositionError, StageError
from fprune.tree import Flat

X = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


class Parallel(nn.Module):
    """Two layers of one shape that lose other channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))


def stepped(make: Any, seen: list[Any]) -> Any:
    def train(module: nn.Module, state: Any) -> tuple[None, Any]:
        optimizer = make(module)
        seen.append(state)
        if state is not None:
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        module(X).square().mean().backward()
        optimizer.step()
        return None, optimizer.state_dict()

    return train


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def reversed_names(module: nn.Module) -> torch.optim.Optimizer:
    return sgd(list(module.named_parameters())[::-1])


def groups(module: nn.Module) -> torch.optim.Optimizer:
    named = list(module.named_parameters())
    return sgd([{"params": [p for p in named if p[1].ndim > 1]}, {"params": [p for p in named if p[1].ndim == 1]}])


def of_one_layer(module: nn.Module) -> torch.optim.Optimizer:
    return sgd(list(module.get_submodule("b").named_parameters(prefix="b")))


MAKERS = {
    "all": lambda module: sgd(module.parameters()),
    "named": lambda module: sgd(module.named_parameters()),
    "reversed": reversed_names,
    "groups": groups,
    "some": of_one_layer,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_moments_are_cut_with_their_parameters(maker: str) -> None:
    pipeline = agp(2) | finetune(stepped(MAKERS[maker], seen := []), carries=True) | l1(dependency_aware) | speed_up()
    config = [{"op_names": ["a", "b"], "sparsity": 0.5}]
    first, *_, last = pipeline.stream(Parallel(), config, example_inputs=X)
    assert last.model["b.weight"].shape == (4, 8)
    assert len(seen) == 3
    state = last.carried["train"]
    names = {
        i: name
        for group in state["param_groups"]
        for i, name in zip(group["params"], group.get("param_names", list_of(last)), strict=False)
    }
    kept = last.lineage.kept["b.weight"][0]
    assert kept is not None and not torch.equal(kept, last.lineage.kept["a.weight"][0])
    number = next(i for i, name in names.items() if name == "b.bias")
    # Uncut, the moments are those of a run without speed_up whose last round trained the same model.
    uncut = agp(2) | finetune(stepped(MAKERS[maker], []), carries=True) | l1(dependency_aware)
    *_, whole = uncut.stream(Parallel(), config, example_inputs=X)
    moments = whole.carried["train"]["state"][number_of(whole, "b.bias")]["momentum_buffer"]
    assert torch.allclose(state["state"][number]["momentum_buffer"], moments[kept], atol=1e-6)
    assert first.index == 0


def list_of(result: TaskResult) -> list[str]:
    return [name for name, _ in result.module().named_parameters()]


def number_of(result: TaskResult, name: str) -> int:
    for group in result.carried["train"]["param_groups"]:
        for i, found in zip(group["params"], group.get("param_names", list_of(result)), strict=False):
            if found == name:
                return i
    raise AssertionError(name)


UNNAMED = {
    "some": lambda module: sgd(module.get_submodule("b").parameters()),
    "groups": lambda module: sgd(
        [{"params": list(module.parameters())[:2]}, {"params": list(module.parameters())[2:]}]
    ),
}


@pytest.mark.parametrize("maker", UNNAMED)
def test_numbers_that_tell_nothing_are_refused(maker: str) -> None:
    pipeline = one_shot() | finetune(stepped(UNNAMED[maker], []), carries=True) | l1(dependency_aware) | speed_up()
    with pytest.raises(StageError, match="does not say which of the 6 parameters") as caught:
        pipeline.run(Parallel(), [{"op_names": ["a", "b"], "sparsity": 0.5}], example_inputs=X)
    assert "named_parameters" in caught.value.hint


def test_what_is_given_is_a_copy() -> None:
    def train(module: nn.Module, state: Any) -> tuple[None, Any]:
        if state is not None:
            state["m"].add_(1)
        return None, {"m": torch.zeros(2)} if state is None else state

    results = list((agp(2) | level() | finetune(train, carries=True)).stream(nn.Linear(4, 4), 0.5))
    assert [result.carried["train"]["m"].tolist() for result in results] == [[0, 0], [1, 1], [2, 2]]


def test_a_reset_drops_what_is_carried() -> None:
    train = stepped(MAKERS["all"], seen := [])
    list((agp(2) | level() | finetune(train, carries=True) | reset_weight()).stream(Parallel(), 0.5))
    assert seen == [None, None, None]


def test_two_functions_of_one_name_are_refused() -> None:
    one, two = stepped(MAKERS["all"], []), stepped(MAKERS["all"], [])
    pipeline = one_shot() | level() | finetune(one, carries=True) | finetune(two, carries=True)
    with pytest.raises(CompositionError, match="two functions named train carry a state"):
        pipeline.stream(Parallel(), 0.5)
    twice = one_shot() | level() | finetune(one, carries=True) | finetune(one, carries=True)
    assert twice.run(Parallel(), 0.5).carried.keys() == {"train"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned NoneType"),
        (({},), "returned tuple"),
        ((None, object()), "carries a object"),
        ((None, {1.5: 2}), "key 1.5"),
    ],
)
def test_what_cannot_be_kept_is_refused(returned: Any, message: str) -> None:
    def train(module: nn.Module, state: Any) -> Any:
        return returned

    with pytest.raises(StageError, match=message):
        finetune(train, carries=True)(TaskResult.start(nn.Linear(2, 2), 0.5))
    assert Flat() == TaskResult.start(nn.Linear(2, 2), 0.5).carried
