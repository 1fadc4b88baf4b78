"""What lives and dies together in a model: units, families, barriers."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from torch import nn

from fprune.inputs import Inputs, Selector
from fprune.model import Model, borrowed
from fprune.structure import rules as _rules
from fprune.structure.families import Family, families
from fprune.structure.flow import Barrier, Flow, Sink
from fprune.structure.graph import Graph
from fprune.structure.labels import Ints
from fprune.structure.record import record
from fprune.structure.roles import roles
from fprune.structure.worth import some, whole_outputs, worths
from fprune.tables import html_table, text_table

_ = _rules  # importing the package registers the rules


@attrs.frozen(eq=False)
class Structure:
    """The couplings of a model on given inputs: immutable, independent of weights and masks.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> structure = trace(Model.from_module(net), inputs(torch.ones(1, 4)))
        >>> structure
        Structure(3 operations, 1 families, 8 units, 0 barriers)
        >>> structure.family_of("2.weight", dim=1)
        (Family(0.weight, 8 units, 3 slices),)

    Args:
        graph: the recorded forward pass.
        inputs: the example inputs it was recorded on.
        rows: label rows of each value, one array `(size, k)` per dimension; index i is kept iff all its labels are.
        sinks: where labelled dimensions are reduced.
        families: what can be removed, in the order of the model's tensors.
        barriers: operations that keep what they touch, and why.
        labels: how many labels there are.
        replaced: modules that an earlier surgery replaced by graphs of their calls.
        buffers: tensors of the program that are no parameters.
    """

    graph: Graph
    inputs: Inputs
    rows: Mapping[int, tuple[Ints, ...]]
    sinks: tuple[Sink, ...]
    families: tuple[Family, ...]
    barriers: tuple[Barrier, ...]
    labels: int
    replaced: tuple[str, ...] = ()
    buffers: frozenset[str] = frozenset()

    @property
    def units(self) -> int:
        """How many units could be removed, over all families."""
        return sum(map(len, self.families))

    def family_of(self, tensor: str, dim: int = 0) -> tuple[Family, ...]:
        """The families that reach a dimension of a tensor."""
        return tuple(f for f in self.families if any(s.tensor == tensor and s.dim == dim for s in f.slices))

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        families = [family.labels for family in self.families]
        worth = worths(self.graph, self.rows, families, self.labels, self.buffers)
        rows = [
            [f.name, f.role, len(f), f.original, f"{w.params:,}", f"{w.flops:,}", some(f.parameters)]
            for f, w in zip(self.families, worth, strict=True)
        ]
        return ["family", "role", "units", "of", "params each", "FLOPs each", "reaches"], rows

    def _kept(self) -> list[str]:
        """Weights of which no output can go, then the operations that keep what they touch."""
        whole = whole_outputs(self.graph, self.rows)
        return [*([f"the outputs of {some(whole)}"] if whole else []), *map(str, self.barriers)]

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Structure({len(self.graph.nodes)} operations, {len(self.families)} families, {self.units} units, "
            f"{len(self.barriers)} barriers)"
        )

    def __str__(self) -> str:
        """The families as a table, then the barriers."""
        lines = [text_table(*self._table(), title=repr(self)), *(f"kept: {line}" for line in self._kept())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        kept = self._kept()
        table = html_table(["kept"], [[line] for line in kept]) if kept else ""
        return html_table(*self._table(), title=repr(self)) + table


def trace(model: Model | nn.Module, example_inputs: object, *, outputs: Selector | None = None) -> Structure:
    """Find what lives and dies together in a model.

    The forward pass is recorded once on the meta device; labels then flow through it and are identified wherever two
    slices must be kept or removed together. The result depends on the model's code and shapes only, not on its weights.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> trace(Model.from_module(net), inputs(torch.zeros(1, 4))).families
        (Family(0.weight, 8 units, 3 slices),)

    Args:
        model: the model; a plain `nn.Module` is taken too.
        example_inputs: what `forward` is called with: an `Inputs`, a tuple, a dict or one tensor.
        outputs: which of the returned tensors have to stay as they are, `lambda out: out.logits`; by default all of
            them, or what the `Inputs` say.

    Returns:
        The families of units, with every slice that goes with each unit.

    Raises:
        ModelError: the forward pass fails on the inputs, or branches on data.
        ConfigError: `outputs` picks no tensor of what the forward pass returns.
        StructureError: it returns something in which no tensor can be found.
    """
    given = Inputs.of(example_inputs) or Inputs()
    given = given if outputs is None else attrs.evolve(given, outputs=outputs)
    read = borrowed(model)
    graph = record(read, given)
    flow = Flow(graph)
    rows = {index: tuple(flow.labels.resolve(r) for r in dims) for index, dims in flow.values.items()}
    sinks = tuple(
        attrs.evolve(s, rows=r, out=None if s.out is None else flow.labels.resolve(s.out))
        for s in flow.sinks
        if (r := flow.labels.resolve(s.rows)).any()
    )
    reducible = np.zeros(flow.labels.count, np.bool_)
    for sink in sinks:
        reducible[sink.rows] = True
    reducible[0] = False
    tensors = {name: rows[index] for index, name in graph.tensors.items()}
    found, count = families(tensors, reducible), flow.labels.count
    kinds = roles(graph, rows, [family.labels for family in found], count)
    named = tuple(attrs.evolve(family, role=role) for family, role in zip(found, kinds, strict=True))
    return Structure(graph, given, rows, sinks, named, tuple(flow.barriers), count, buffers=frozenset(read.buffers))
