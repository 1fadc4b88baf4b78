"""Lineages applied to what training keeps beside the parameters: a step after the cut is the cut of a step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fprune import Masks, Model, compact, inputs
from fprune.errors import ModelError
from fprune.lineage import Lineage
from fprune.structure import Compacted, trace
from fprune.training import hold
from fprune.tree import Flat

X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([True, False, True, True, False, True])


def network(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=bias), nn.Linear(3, 2)).double()


def units() -> Masks:
    return Masks({"0.weight": KEPT[:, None], "0.bias": KEPT, "2.weight": KEPT[None, :]})


def cut(net: nn.Module, masks: Masks, style: str = "auto") -> Compacted:
    return compact(Model.from_module(net), masks, trace(net, inputs(X)), style=style)


def names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_parameters()]


def step(net: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks | None = None) -> None:
    optimizer.zero_grad()
    net(X).square().sum().backward()
    if masks is None:
        optimizer.step()
    else:
        with hold(net, masks, optimizer):
            optimizer.step()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


@pytest.mark.parametrize("style", ["module", "graph"])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(
    make: Callable[[Any], torch.optim.Optimizer], named: bool, style: str
) -> None:
    net = network()
    masked = units().apply(dict(net.named_parameters()))
    net.load_state_dict(dict(masked))
    optimizer = make(net.named_parameters() if named else net.parameters())
    for _ in range(3):
        step(net, optimizer, units())
    done = cut(net, units(), style)
    small = done.model.to_module()
    again = make(small.named_parameters() if named else small.parameters())
    again.load_state_dict(done.lineage.slice_optimizer(optimizer.state_dict(), names(net), names(small)))
    for _ in range(3):
        step(net, optimizer, units())
        step(small, again)
    expected = done.lineage.slice(dict(net.named_parameters()))
    assert small.get_parameter("0.weight").shape == (4, 4)
    for name, param in small.named_parameters():
        torch.testing.assert_close(param, expected[name], rtol=1e-10, atol=1e-12)


def adam_state(net: nn.Module, *, named: bool = False) -> dict[str, Any]:
    optimizer = torch.optim.Adam(net.named_parameters() if named else net.parameters())
    step(net, optimizer)
    return optimizer.state_dict()


def test_a_state_that_knows_its_names_needs_no_others() -> None:
    net = network()
    lineage = cut(net, units()).lineage
    state = lineage.slice(adam_state(net, named=True))
    assert state["state"][0]["exp_avg"].shape == (4, 4) and state["state"][2]["exp_avg_sq"].shape == (3, 4)
    assert state["state"][0]["step"].item() == 1


def test_numbers_without_names_are_refused() -> None:
    net = network()
    lineage = cut(net, units()).lineage
    for tree in (adam_state(net), [p.detach() for p in net.parameters()]):
        with pytest.raises(ModelError, match=r"by (the )?number[\s\S]*named_parameters"):
            lineage.slice(tree)


def test_expand_undoes_slice_where_something_is_left() -> None:
    net = network()
    lineage, state = cut(net, units()).lineage, adam_state(net)
    there = lineage.expand(lineage.slice(state, names=names(net)), names=names(net), fill=7)
    rows = there["state"][0]["exp_avg"]
    assert torch.equal(rows[KEPT], state["state"][0]["exp_avg"][KEPT]) and (rows[~KEPT] == 7).all()
    assert torch.equal(there["state"][5]["exp_avg"], state["state"][5]["exp_avg"])


def test_a_bias_made_by_folding_starts_without_a_state() -> None:
    net = network(bias=False)
    done = cut(net, Masks({"0.weight": KEPT[:, None]}))
    small = done.model.to_module()
    assert names(small) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    state = done.lineage.slice_optimizer(adam_state(net), names(net), names(small))
    optimizer = torch.optim.Adam(small.parameters())
    optimizer.load_state_dict(state)
    assert sorted(state["state"]) == [0, 1, 2, 4, 5]
    assert state["state"][4]["exp_avg"].shape == (2, 3) and state["state"][2]["exp_avg"].shape == (3, 4)
    step(small, optimizer)


def test_groups_stay_groups() -> None:
    net = network()
    groups = [{"params": [net[0].weight, net[2].weight]}, {"params": [net[0].bias, net[2].bias], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    step(net, optimizer)
    given = ["0.weight", "2.weight", "0.bias", "2.bias"]
    state = cut(net, units()).lineage.slice_optimizer(optimizer.state_dict(), given, given)
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    assert [group["lr"] for group in state["param_groups"]] == [0.1, 0.5]
    assert [tuple(state["state"][i]["momentum_buffer"].shape) for i in range(4)] == [(4, 4), (3, 4), (4,), (3,)]


LINEAGE = Lineage(
    Flat({"a.w": (4, 3), "b": (4,)}),
    Flat({"a.w": (torch.tensor([0, 3]), None), "b": (torch.tensor([1, 2]),)}),
    ties=Flat({"z.w": "a.w"}),
)
W = torch.arange(12.0).view(4, 3)
CUT = W[[0, 3]]


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"a.w": W}, lambda t: t["a.w"]),
        ({"z.w": W}, lambda t: t["z.w"]),
        ({"module.a.w": W}, lambda t: t["module.a.w"]),
        ({"_orig_mod.module.a.w": W}, lambda t: t["_orig_mod.module.a.w"]),
        ({"ema": {"shadow": {"a.w": W}, "decay": 0.9}}, lambda t: t["ema"]["shadow"]["a.w"]),
        ({"params": {"a": {"w": W}}}, lambda t: t["params"]["a"]["w"]),
        ({"state": {"a.w": {"exp_avg": W, "step": torch.tensor(3.0)}}}, lambda t: t["state"]["a.w"]["exp_avg"]),
        ([{"a.w": (W, None)}], lambda t: t[0]["a.w"][0]),
        (Flat({"a.w": W}), lambda t: t["a.w"]),
    ],
)
def test_a_name_on_the_way_is_enough(tree: Any, found: Callable[[Any], Tensor]) -> None:
    small = LINEAGE.slice(tree)
    assert type(small) is type(tree)
    assert torch.equal(found(small), CUT)
    back = found(LINEAGE.expand(small))
    assert torch.equal(back[[0, 3]], CUT) and not back[[1, 2]].any()


def test_positions_in_lists_and_factors() -> None:
    shadow = {"shadow_params": [W, torch.ones(4)], "collected": None}
    small = LINEAGE.slice(shadow, names=["a.w", "b"])
    assert torch.equal(small["shadow_params"][0], CUT) and small["shadow_params"][1].shape == (2,)
    factors = LINEAGE.slice({"a.w": {"row_var": W[:, :1], "col_var": W[:1]}})["a.w"]
    assert torch.equal(factors["row_var"], CUT[:, :1]) and torch.equal(factors["col_var"], W[:1])


def test_what_has_no_name_passes_and_what_does_not_fit_is_refused() -> None:
    tree = {"n_averaged": torch.tensor(3), "other": torch.ones(7)}
    assert LINEAGE.slice(tree) == tree
    for wrong in ({"a.w": torch.ones(2, 3)}, {"a.w": torch.tensor(1.0)}, {"a.w": {"flat": torch.ones(12)}}):
        with pytest.raises(ModelError, match=r"'a.w': expected the original shape \(4, 3\)"):
            LINEAGE.slice(wrong)
    with pytest.raises(ModelError, match=r"'a.w': expected the compact shape \(2, 3\)"):
        LINEAGE.expand({"a.w": W})


def test_an_averaged_model_is_cut_with_its_buffers_and_ties() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False)
            self.again = nn.Linear(4, 6, bias=False)
            self.again.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm(self.first(x)) + self.again(x))

    torch.manual_seed(0)
    net = Tied().double().eval()
    keys = {"first.bias": KEPT, "norm.weight": KEPT, "norm.bias": KEPT, "second.weight": KEPT[None]}
    done = cut(net, Masks({"again.weight": KEPT[:, None], **keys}))
    small = AveragedModel(done.model.to_module())
    small.load_state_dict(done.lineage.slice(AveragedModel(net).state_dict()))
    expected = done.lineage.slice(dict(net.state_dict()))
    assert expected["first.weight"].shape == expected["again.weight"].shape == (4, 4)
    assert torch.equal(small.module.first.weight, expected["first.weight"])
    assert torch.equal(small.module.norm.running_var, net.norm.running_var[KEPT])
