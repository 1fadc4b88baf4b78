"""The whole program after surgery, and the structure of the compact model: carried over, no second capture."""

from collections.abc import Mapping

import attrs
import numpy as np

from fprune.structure import rewrites as _rewrites
from fprune.structure.decide import Decision
from fprune.structure.families import Family, Slice
from fprune.structure.flow import Sink
from fprune.structure.graph import Node, Ref
from fprune.structure.labels import Ints
from fprune.structure.rewrite import REWRITES, Cut, called
from fprune.structure.trace import Structure
from fprune.structure.transfers.contraction import bias_name

_ = _rewrites  # importing the package registers the rules


def program(cut: Cut) -> tuple[Node, ...]:
    """Every call of the program, rewritten where a size changes."""
    out: list[Node] = []
    for node in cut.structure.graph.nodes:
        touched = any(cut.changed(index) for index in (*node.inputs, *node.outs))
        fn = REWRITES.get(node.name) if touched else None
        out.append(fn(cut, node, **node.bound) if fn is not None else node)
    return tuple(out)


def compacted(cut: Cut, biases: Mapping[int, tuple[str, int | None]]) -> Structure:
    """The structure of the compact model, carried over: no second capture.

    Args:
        cut: what stays.
        biases: sink number -> name of the bias that takes its fold, and the value that held it, if there was one.
    """
    structure, graph = cut.structure, cut.structure.graph
    nodes = {node.outs: node for node in program(cut)}
    rows = {index: tuple(r[cut.decision.kept(r)] for r in dims) for index, dims in structure.rows.items()}
    shapes = [tuple(map(len, rows[i])) if i in rows else shape for i, shape in enumerate(graph.shapes)]
    tensors = dict(graph.tensors)
    for number, (name, holder) in biases.items():
        sink = structure.sinks[number]
        if holder is not None and tensors.get(holder) == name:
            continue
        index = len(shapes)
        out = sink.out if sink.out is not None else sink.rows
        rows[index] = (out[cut.decision.kept(out)],)
        shapes.append((len(rows[index][0]),))
        tensors[index] = name
        nodes[sink.node.outs] = called(nodes[sink.node.outs], **{bias_name(sink.node): Ref(index)})
    used = {index for node in nodes.values() for index in node.inputs}
    new = attrs.evolve(
        graph,
        nodes=tuple(nodes.values()),
        shapes=tuple(shapes),
        tensors={index: name for index, name in tensors.items() if index in used or index in graph.outputs},
        constants={index: cut.tensor(index, value) for index, value in graph.constants.items()},
    )
    return attrs.evolve(
        structure,
        graph=new,
        rows=rows,
        sinks=tuple(_sink(sink, nodes[sink.node.outs], cut.decision) for sink in structure.sinks),
        families=tuple(f for family in structure.families if len(f := _family(cut, family))),
    )


def _sink(sink: Sink, node: Node, decision: Decision) -> Sink:
    rows = sink.rows[decision.kept(sink.rows)]
    out = None if sink.out is None else sink.out[decision.kept(sink.out)]
    return attrs.evolve(sink, node=node, rows=rows, out=out, groups=node.bound.get("groups", sink.groups))


def _family(cut: Cut, family: Family) -> Family:
    stay = ~cut.decision.removed[family.labels]
    by_name = {name: index for index, name in cut.structure.graph.tensors.items()}
    slices: list[Slice] = []
    for part in family.slices:
        kept = cut.kept(by_name[part.tensor], part.dim)
        index = part.index[stay]
        index = index[kept[index]].reshape(int(stay.sum()), -1) if stay.any() else index
        rank: Ints = np.cumsum(kept) - 1
        slices.append(Slice(part.tensor, part.dim, rank[index]))
    return attrs.evolve(family, labels=family.labels[stay], slices=tuple(slices))
