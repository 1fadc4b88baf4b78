"""Each coupling rule against execution: slices that the labels let go are zeroed, or cut out, with equal results."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fprune.structure.decide import Decision
from fprune.structure.flow import RULES, Flow
from fprune.structure.graph import Graph, Node, run
from fprune.structure.labels import Bools
from fprune.structure.program import program
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure
from fprune.structure.verify import difference
from tests.unit.structure import indexed, operators
from tests.unit.structure.operators import Applied, Case, free_structure, tensors

CASES = operators.CASES + indexed.CASES
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def free(structure: Structure) -> list[int]:
    """Labels of the parameters that can still be removed."""
    rows = [row for index in structure.graph.tensors for row in structure.rows[index]]
    return sorted({int(x) for row in rows for x in row.flat} - {0})


def choices(structure: Structure) -> list[Bools]:
    """What to remove: each label alone, and seeded handfuls; never all of a dimension."""
    labels, generator = free(structure), np.random.default_rng(0)
    picks = [[label] for label in labels]
    picks += [generator.choice(labels, min(k, len(labels)), replace=False).tolist() for k in (2, 3, 4) if labels] * 2
    out: list[Bools] = []
    for pick in picks:
        removed = np.zeros(structure.labels, np.bool_)
        removed[pick] = True
        if not any(removed[row].any(1).all() for dims in structure.rows.values() for row in dims if len(row)):
            out.append(removed)
    return out


def executed(graph: Graph, nodes: tuple[object, ...], start: dict[int, Tensor]) -> dict[int, Tensor]:
    graph = graph if nodes is graph.nodes else Graph(nodes, *(getattr(graph, k) for k in _REST))  # type: ignore[arg-type]
    here = {"device": "cpu"}  # factories were recorded on the meta device

    def call(node: Node, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return node.op(*args, **({**kwargs, **here} if "device" in kwargs else kwargs))

    return run(graph, call, {k: v.clone() for k, v in start.items()})


_REST = ("shapes", "inputs", "tensors", "constants", "outputs", "returns", "arguments")


def parted(structure: Structure, values: dict[str, Tensor], removed: Bools) -> list[str]:
    """The calls whose result on cut operands is not their result on zeroed operands, cut."""
    graph, cut = structure.graph, Cut(structure, Decision(removed, {}))
    zeroed = dict(graph.constants)
    for index, name in graph.tensors.items():
        value = values[name].clone()
        for dim in range(value.ndim):
            gone = torch.from_numpy(np.flatnonzero(~cut.kept(index, dim)))
            value.index_fill_(dim, gone, 0)
        zeroed[index] = value
    whole = executed(graph, graph.nodes, zeroed)
    small = executed(graph, program(cut), {index: cut.tensor(index, value) for index, value in zeroed.items()})
    outs = [(node, index) for node in graph.nodes for index in node.outs]
    return [str(node) for node, i in outs if difference(cut.tensor(i, whole[i]), small[i]) > 1e-12]


@every
def test_what_the_labels_let_go_can_be_cut_out(case: Case) -> None:
    model, structure, _ = free_structure(Applied(case.shapes, case.fn))
    values = tensors(model)
    for removed in choices(structure):
        assert parted(structure, values, removed) == [], np.flatnonzero(removed)


@every
def test_no_more_is_kept_than_has_to_be(case: Case) -> None:
    _, structure, flow = free_structure(Applied(case.shapes, case.fn))
    assert len(free(structure)) == case.free
    assert flow.labels.collapsed == 0
    told = [str(barrier) for barrier in structure.barriers]
    assert any(case.barrier in text for text in told) or not case.barrier


def test_every_rule_is_tried() -> None:
    tried = {node.name for case in CASES for node in free_structure(Applied(case.shapes, case.fn))[1].graph.nodes}
    aliases = set(
        """_unsafe_view reshape_as view_as concat concatenate moveaxis swapaxes swapdims numpy_T log_softmax
        cumprod argsort argmax argmin amin min any all median logsumexp prod max_pool1d max_pool3d avg_pool1d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices upsample_nearest1d
        upsample_nearest3d upsample_linear1d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d constant_pad_nd
        broadcast_to split_with_sizes zeros ones full empty new_zeros new_ones new_full new_empty
        overwritten ger norm""".split()
    )  # share their function with one that is tried, or make values of which nothing goes
    # examples of the documentation add their own rules
    ours = {name for name in RULES if name == "overwritten" or hasattr(torch.ops.aten, name)}
    assert ours - tried - aliases - indexed.ALIASES == set()


def test_a_rule_of_the_users_own() -> None:
    from fprune.structure import rule

    @torch.library.custom_op("fprune_unit::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    @doubled.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    net = Applied(((4, 3),), lambda x: torch.ops.fprune_unit.doubled(x))
    assert free(free_structure(net)[1]) == []
    try:

        @rule("doubled")
        def scale(flow: Flow, node: object, x: object) -> object:
            return flow.dims(x)  # type: ignore[arg-type]

        assert len(free(free_structure(net)[1])) == 7
    finally:
        del RULES["doubled"]
