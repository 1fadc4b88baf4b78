"""What lives and dies together in a model: units, families, barriers."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
from torch import nn

from fprune.inputs import Inputs, Selector
from fprune.model import Model, borrowed
from fprune.structure import rules as _rules
from fprune.structure.flow import Barrier, Flow, Sink
from fprune.structure.graph import Graph
from fprune.structure.labels import Bools, Ints
from fprune.structure.record import record
from fprune.structure.roles import Role, roles
from fprune.structure.worth import some, whole_outputs, worths
from fprune.tables import html_table, text_table

_ = _rules  # importing the package registers the rules


Owned: TypeAlias = tuple[str, int, Ints, Ints]
"""A tensor, a dimension, labels that occur in it (sorted, repeated) and the index of each occurrence."""


@attrs.frozen(eq=False)
class Slice:
    """The part of one tensor dimension that belongs to a family.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Linear(3, 1))
        >>> (family,) = trace(Model.from_module(net), inputs(torch.ones(1, 1))).families
        >>> [(part.tensor, part.dim, part.index.tolist()) for part in family.slices]
        [('0.bias', 0, [[0], [1], [2]]), ('0.weight', 0, [[0], [1], [2]]), ('1.weight', 1, [[0], [1], [2]])]

    Args:
        tensor: name of the parameter or buffer.
        dim: the dimension.
        index: indices along it, shape `(units, width)`: row u belongs to unit u.
    """

    tensor: str
    dim: int
    index: Ints


@attrs.frozen(eq=False)
class Family:
    """Units of one kind: the same slices of the same tensors, differing only in the index. One prunable axis.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> (family,) = trace(Model.from_module(net), inputs(torch.ones(1, 4))).families
        >>> family.name, len(family), family.parameters
        ('0.weight', 8, ('0.bias', '0.weight', '2.weight'))

    Args:
        name: the tensor dimension that makes it, `"layer1.0.conv1.weight"`.
        labels: the label of each unit.
        slices: everything that goes when a unit goes.
        original: how many units there were before any compaction.
        role: what the units are: `"head"`s of an attention, `"head_dim"`, one place in every head, or `"channel"`s.
    """

    name: str
    labels: Ints
    slices: tuple[Slice, ...]
    original: int
    role: Role = "channel"

    def __len__(self) -> int:
        """How many units there are."""
        return len(self.labels)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tensors it reaches, each once."""
        return tuple(dict.fromkeys(s.tensor for s in self.slices))

    def __repr__(self) -> str:
        """One line."""
        return f"Family({self.name}, {len(self)} units, {len(self.slices)} slices)"


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


def families(tensors: Mapping[str, tuple[Ints, ...]], allowed: Bools) -> tuple[Family, ...]:
    """Group labels by the slices they own: `allowed[label]` says which may be removed."""
    signature = np.zeros(len(allowed), np.uint64)
    owned: list[Owned] = []
    for name, dims in tensors.items():
        for dim, row in enumerate(dims):
            at, column = np.nonzero(allowed[row])
            if not len(at):
                continue
            labels = row[at, column]
            order = np.argsort(labels, kind="stable")
            labels, at = labels[order], at[order]
            unique, counts = np.unique(labels, return_counts=True)
            with np.errstate(over="ignore"):  # a polynomial hash modulo 2**64
                entry = np.uint64(len(owned) + 1) * np.uint64(1_000_003) + counts.astype(np.uint64)
                signature[unique] = signature[unique] * np.uint64(6364136223846793005) + entry
            owned.append((name, dim, labels, at))
    used = np.nonzero(signature)[0]
    kind_of = np.full(len(allowed), -1, np.int64)
    kind_of[used] = np.unique(signature[used], return_inverse=True)[1]
    kinds: dict[int, list[Owned]] = {}
    for name, dim, labels, at in owned:
        kind = kind_of[labels]
        order = np.argsort(kind, kind="stable")
        cuts = np.flatnonzero(np.diff(kind[order])) + 1
        for part in np.split(order, cuts):
            kinds.setdefault(int(kind[part[0]]), []).append((name, dim, labels[part], at[part]))
    found = (_family(apart, parts, tensors) for parts in kinds.values() for apart in _uncrossed(parts))
    return _named_apart(sorted(found, key=lambda family: int(family.labels[0])))


def _named_apart(found: list[Family]) -> tuple[Family, ...]:
    """A number after the name of each family but the first that a tensor dimension makes: heads, then their width."""
    seen: dict[str, int] = {}
    out: list[Family] = []
    for family in found:
        number = seen[family.name] = seen.get(family.name, 0) + 1
        out.append(family if number == 1 else attrs.evolve(family, name=f"{family.name}#{number}"))
    return tuple(out)


def _family(labels: Ints, parts: list[Owned], tensors: Mapping[str, tuple[Ints, ...]]) -> Family:
    """The family of some labels, each of which owns the same number of entries of each part."""
    slices: list[Slice] = []
    for name, dim, every, at in parts:
        mine = np.isin(every, labels) if len(labels) < len(np.unique(every)) else slice(None)
        slices.append(Slice(name, dim, at[mine].reshape(len(labels), -1)))
    return Family(_name(slices, tensors), labels, tuple(slices), len(labels))


def _uncrossed(parts: list[Owned]) -> list[Ints]:
    """Labels apart that meet in one index: the two axes of a square grid look alike but are two families."""
    meets: dict[int, set[int]] = {}
    for _, _, every, at in parts:
        if len(np.unique(at)) == len(at):
            continue
        by_index: dict[int, list[int]] = {}
        for label, index in zip(every.tolist(), at.tolist(), strict=True):
            by_index.setdefault(index, []).append(label)
        for group in by_index.values():
            for label in group:
                meets.setdefault(label, set()).update(group)
    labels: Ints = np.unique(parts[0][2])
    if not meets:
        return [labels]
    apart: list[list[int]] = []
    for label in labels.tolist():
        home = next((group for group in apart if meets.get(label, set()).isdisjoint(group)), None)
        if home is None:
            apart.append([label])
        else:
            home.append(label)
    return [np.array(group, np.int64) for group in apart]


def _name(slices: list[Slice], tensors: Mapping[str, tuple[Ints, ...]]) -> str:
    """A family is named after the first weight whose outputs it is, else after its first slice."""
    made = [s.tensor for s in slices if s.dim == 0 and len(tensors[s.tensor]) > 1]
    return made[0] if made else f"{slices[0].tensor}[dim {slices[0].dim}]"
