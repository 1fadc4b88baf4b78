"""Value by value: the compact program is the masked program restricted to what stays."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from fprune import Masks, Model, compact
from fprune.inputs import Inputs
from fprune.structure.constants import known
from fprune.structure.decide import decide, folds
from fprune.structure.graph import Graph, run
from fprune.structure.outputs import leaves
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure, trace
from fprune.structure.verify import difference
from tests.unit.structure.operators import tensors
from tests.zoo.models import CASES
from tests.zoo.support import traced

every = pytest.mark.parametrize("name", [case.name for case in CASES])


@functools.cache
def compacted(name: str) -> Any:
    made = traced(name)
    masks = made.masks(0.5)
    return made, masks, compact(made.model, masks, made.structure)


def execution(graph: Graph, values: dict[str, Tensor], inputs: Inputs) -> dict[int, Tensor]:
    """Every value of a program; operators that write in place write a copy."""
    env: dict[int, Any] = dict(zip(graph.inputs, leaves((inputs.args, dict(inputs.kwargs))), strict=True))
    env |= dict(graph.constants) | {index: values[name] for index, name in graph.tensors.items()}

    def call(node: Any, args: Any, kwargs: Any) -> Any:
        args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        return node.op(*args, **({**kwargs, "device": "cpu"} if "device" in kwargs else kwargs))

    with torch.no_grad():
        return run(graph, call, env)


def cut_of(structure: Structure, model: Model, masks: Masks) -> tuple[Cut, dict[int, Tensor]]:
    masked = model.replace(masks.apply(model))
    values = known(structure.graph, tensors(masked))
    decision = decide(structure, masks, values, {name: tuple(t.shape) for name, t in tensors(masked).items()})
    return Cut(structure, decision), folds(structure, decision, values)


@every
def test_every_value_is_the_kept_part(name: str) -> None:
    made, masks, done = compacted(name)
    cut, _ = cut_of(made.structure, made.model, masks)
    masked = made.model.replace(masks.apply(made.model))
    inputs = Inputs.of(made.case.inputs(seed=4))
    assert inputs is not None
    whole = execution(made.structure.graph, tensors(masked), inputs)
    small = execution(done.structure.graph, tensors(done.model), inputs)
    nodes = [(node, index) for node in done.structure.graph.nodes for index in node.outs]
    assert [str(node) for node, i in nodes if difference(cut.tensor(i, whole[i]), small[i]) > 1e-9] == []
    assert all(tuple(small[i].shape) == done.structure.graph.shapes[i] for _, i in nodes)
    assert any(cut.changed(i) for _, i in nodes)


def families(structure: Structure) -> set[frozenset[tuple[str, int, tuple[int, ...]]]]:
    """Units as sets of slices, whatever they are called; a unit that is alone cannot go and does not count."""
    units: list[frozenset[tuple[str, int, tuple[int, ...]]]] = []
    for family in structure.families:
        if len(family) > 1:
            units += [
                frozenset((s.tensor, s.dim, tuple(sorted(s.index[u].tolist()))) for s in family.slices)
                for u in range(len(family))
            ]
    return set(units)


@every
def test_the_structure_carried_over_is_that_of_a_fresh_trace(name: str) -> None:
    made, _, done = compacted(name)
    fresh = trace(done.model, made.case.inputs())
    assert families(done.structure) == families(fresh)
    assert all(f.original >= len(f) for f in done.structure.families)
    assert [n.name for n in fresh.graph.nodes if n.name in ("conv2d", "linear", "batch_norm")] == [
        n.name for n in done.structure.graph.nodes if n.name in ("conv2d", "linear", "batch_norm")
    ]


@every
def test_compacting_again_changes_nothing(name: str) -> None:
    _, _, done = compacted(name)
    again = compact(done.model, done.masks, done.structure)
    assert again.report.style == "unchanged" and again.model == done.model and again.structure is done.structure


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet", "resnext", "tied_linear"])
def test_in_two_steps_as_in_one(name: str) -> None:
    """Half, then three quarters of what there was: the structure carried over serves the second step."""
    made, _, done = compacted(name)
    masks = {}
    for family in done.structure.families:
        for part in family.slices:
            if part.tensor in done.model and len(family) > 1:
                mask = torch.ones([1] * done.model[part.tensor].ndim, dtype=torch.bool)
                shape = [1] * mask.ndim
                shape[part.dim] = done.model[part.tensor].shape[part.dim]
                line = torch.ones(shape[part.dim], dtype=torch.bool)
                line[part.index[: len(family) // 2].reshape(-1)] = False
                mask = mask & line.view(shape)
                masks[part.tensor] = masks[part.tensor] & mask if part.tensor in masks else mask
    again = compact(done.model, Masks(masks), done.structure)
    fresh = compact(done.model, Masks(masks), trace(done.model, made.case.inputs()))
    assert again.report.removed and sum(again.report.removed.values()) == sum(fresh.report.removed.values())
    assert {n: v.shape for n, v in again.model.items()} == {n: v.shape for n, v in fresh.model.items()}
