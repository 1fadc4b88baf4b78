"""What a family says a unit is worth is what the compact program lacks once the unit is gone."""

import sys
from math import prod

import numpy as np
import pytest
import torch

from fprune import Masks, Model
from fprune.structure import Family, Structure, trace
from fprune.structure.flops import flops
from fprune.structure.graph import Graph
from fprune.structure.operation import planned
from fprune.structure.worth import Worth, worths
from tests.zoo.case import Case
from tests.zoo.models import BY_NAME, CASES
from tests.zoo.support import traced


def worth_of(structure: Structure) -> list[Worth]:
    labels = [family.labels for family in structure.families]
    return worths(structure.graph, structure.rows, labels, structure.labels, structure.buffers)


def without_first_unit(model: Model, family: Family) -> Masks:
    masks: dict[str, torch.Tensor] = {}
    for part in family.slices:
        if part.tensor in model:
            shape = model[part.tensor].shape
            kept = torch.ones(shape[part.dim], dtype=torch.bool)
            kept[torch.from_numpy(part.index[0])] = False
            kept = kept.view([-1 if d == part.dim else 1 for d in range(len(shape))])
            masks[part.tensor] = masks[part.tensor] & kept if part.tensor in masks else kept
    return Masks(masks)


def cost(graph: Graph, model: Model) -> Worth:
    params = sum(prod(graph.shapes[index]) for index, name in graph.tensors.items() if name in model)
    return Worth(params, sum(flops(node, graph.shapes.__getitem__) for node in graph.nodes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_worth_is_what_removal_saves(case: Case) -> None:
    model, structure = traced(case.name).model, traced(case.name).structure
    whole, checked = cost(structure.graph, model), 0
    for family, worth in zip(structure.families, worth_of(structure), strict=True):
        masks = without_first_unit(model, family)
        operation = planned(model.replace(masks.apply(model)), masks, structure)
        if np.flatnonzero(operation.cut.decision.removed).tolist() == [family.labels[0]]:
            left = cost(operation.structure.graph, model)
            assert worth == Worth(whole.params - left.params, whole.flops - left.flops), family.name
            checked += 1
    assert checked >= len(structure.families) / 2


def test_the_table_names_families_their_worth_and_what_stays() -> None:
    structure = traced("softmax_wall").structure
    text, html = str(structure), structure._repr_html_()
    (first, *_) = worth_of(structure)
    for shown in (text, html):
        assert f"{first.params:,}" in shown and f"{first.flops:,}" in shown
        assert "every index along this dimension matters" in shown
        assert "the outputs of conv2.weight" in shown
    assert "tests/zoo/walls.py" in text


def test_tracing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["vgg_flatten"]
    net = case.net()
    monkeypatch.setattr(sys.modules[trace.__module__], "worths", lambda *_: pytest.fail("counted while tracing"))
    assert trace(net, case.inputs()).families
