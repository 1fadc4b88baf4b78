"""Carry labels through a recorded program: the rule registry and what rules work with."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import attrs
import numpy as np
import torch

from fprune.structure.expressions import Expression, Size, leaves
from fprune.structure.graph import Graph, Node, Ref, Shape, refs
from fprune.structure.labels import Ints, Labels, frozen
from fprune.structure.operators import is_pointwise

Dims: TypeAlias = list[Ints]
"""Label rows of a value, one array per dimension."""


@attrs.frozen(eq=False)
class Sink:
    """A place where a labelled dimension is reduced: only here can removing a slice change what is computed.

    Args:
        kind: `"conv"`, `"conv_transpose"`, `"linear"`, `"product"`, `"mean"`, `"sum"`, `"norm"` or `"recurrent"`.
        node: the call.
        rows: label rows of the reduced dimension.
        value: the operand whose dimension is reduced.
        dim: which dimension of it.
        weight: the weight operand of a convolution or linear layer.
        out: label rows of the output channels that the weight makes.
        groups: groups of a convolution.
        others: for a product, every other factor that has this dimension, and where.
    """

    kind: str
    node: Node
    rows: Ints
    value: int
    dim: int
    weight: int | None = None
    out: Ints | None = None
    groups: int = 1
    others: tuple[tuple[int, int], ...] = ()


@attrs.frozen
class Barrier:
    """An operation that keeps every slice of what it touches, and why.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Softmax(-1), torch.nn.Linear(8, 2))
        >>> (barrier,) = trace(Model.from_module(net), inputs(torch.ones(1, 4))).barriers
        >>> barrier.op, barrier.module, barrier.reason
        ('softmax', '1', 'every index along this dimension matters')

    Args:
        op: the operator's plain name.
        module: dotted path of the module whose `forward` made the call; empty for the root.
        site: `file:line` of the user's code.
        reason: why nothing may go.
    """

    op: str
    module: str
    site: str
    reason: str

    def __str__(self) -> str:
        """One line: what, where, why."""
        return f"{self.op} in {self.module or 'the root module'} ({self.site}): {self.reason}"


Rule: TypeAlias = Callable[..., Dims | list[Dims] | None]
AnyRule = TypeVar("AnyRule", bound=Rule)
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[AnyRule], AnyRule]:
    """Register how labels pass through operators.

    A rule gets the `Flow`, the `Node` and the operator's arguments by schema name (tensors as `Ref`), couples what must
    live and die together, and returns the label rows of its output, or `None` for an operator it cannot handle in this
    form.

    Examples:
        >>> from fprune.structure import rule
        >>> @rule("my_scale")
        ... def my_scale(flow, node, x, factor):
        ...     return flow.dims(x)

    Args:
        names: operator names without namespace, `"my_scale"` for `torch.ops.mylib.my_scale`.

    Returns:
        A decorator that registers a function and gives it back.
    """

    def register(fn: AnyRule) -> AnyRule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register


class Flow:
    """The labels of one program while its rules run."""

    def __init__(self, graph: Graph) -> None:
        """Run every rule over the program, in order."""
        self.graph = graph
        self.labels = Labels()
        self.sinks: list[Sink] = []
        self.barriers: list[Barrier] = []
        self.values: dict[int, Dims] = {index: self.kept(index) for index in graph.inputs}
        self.values.update({index: [self.labels.fresh(n) for n in graph.shapes[index]] for index in graph.tensors})
        self.labels.mark(*(row for index in graph.tensors for row in self.values[index]))
        self.values.update({index: [self.labels.fresh(n) for n in graph.shapes[index]] for index in graph.constants})
        for node in graph.nodes:
            self._call(node)
        for index in graph.picked(graph.outputs):
            self.labels.freeze(*self.values[index])

    def shape(self, ref: Ref | int) -> Shape:
        """The shape of a value."""
        return self.graph.shapes[ref if isinstance(ref, int) else ref.index]

    def dims(self, ref: Ref) -> Dims:
        """The label rows of an argument, one array per dimension."""
        return list(self.values[ref.index])

    def kept(self, index: int) -> Dims:
        """Rows for a value of which nothing may be removed."""
        return [frozen(n) for n in self.graph.shapes[index]]

    def follows(self, node: Node, name: str) -> list[bool]:
        """For each entry of a size argument, whether it was read from a size that is kept, such as the batch."""
        sizes = node.bound[name]
        return [self._reads_kept(e) for e in node.sources.get(name, (None,) * len(sizes))]

    def _reads_kept(self, expression: Expression | None) -> bool:
        found = [] if expression is None else [leaf for leaf in leaves(expression) if isinstance(leaf, Size)]
        return any(s.value not in self.values or not self.labels.live(self.values[s.value][s.dim]) for s in found)

    def sink(self, kind: str, node: Node, rows: Ints, value: Ref, dim: int, **rest: Any) -> None:
        """Note that `rows`, dimension `dim` of `value`, are reduced here."""
        self.sinks.append(Sink(kind, node, rows, value.index, dim % len(self.shape(value)), **rest))

    def freeze(self, rows: Sequence[Ints], node: Node, reason: str) -> None:
        """Keep these slices, and say why if that takes a choice away."""
        live = [row for row in rows if self.labels.live(row)]
        if live:
            self._note(live, node, reason)
            self.labels.freeze(*live)

    def _note(self, rows: Sequence[Ints], node: Node, reason: str) -> None:
        """Report a barrier, unless no parameter or buffer has these labels: the size of a constant is nobody's loss."""
        lost = np.unique(np.concatenate([self.labels.resolve(row).ravel() for row in rows]))
        if self.labels.marked(lost[lost != 0]).any():
            self.barriers.append(Barrier(node.name, node.module, node.site, reason))

    def broadcast(self, operands: Sequence[Dims], node: Node) -> Dims:
        """Couple operands dimension by dimension, aligned on the right; a size of 1 neither couples nor carries."""
        ndim = max(len(dims) for dims in operands)
        out: Dims = []
        for d in range(-ndim, 0):
            rows = [dims[d] for dims in operands if len(dims) >= -d]
            size = max((len(row) for row in rows), default=1) if all(len(row) for row in rows) else 0
            rows = [row for row in rows if len(row) == size]
            for row in rows[1:]:
                self.couple(rows[0], row, node)
            out.append(rows[0])
        return out

    def couple(self, a: Ints, b: Ints, node: Node) -> None:
        """Let two dimensions live and die together; a barrier is noted when that takes a choice away."""
        free = [self.labels.resolve(row).any(1) for row in (a, b)]
        if (free[0] != free[1]).any():
            self._note([a[free[0] & ~free[1]], b[free[1] & ~free[0]]], node, "it meets a value whose size is fixed")
        self.labels.unify(a, b)

    def _call(self, node: Node) -> None:
        handler = RULES.get(node.name)
        operands = [self.values[index] for index in node.inputs]
        found: Any = None  # as many values as the call makes
        if "dim" in node.bound and self.graph.unsure(node):
            taken: list[Ints] = [dims[node.bound["dim"]] for dims in operands if dims]
            self.freeze(taken, node, "it cuts this dimension by numbers that may have been computed from the inputs")
        if handler is not None:
            found = handler(self, node, **node.bound)
        elif node.single and is_pointwise(node):
            found = self.broadcast(operands, node) if operands else self.kept(node.out)
        if found is None:
            self.freeze([row for dims in operands for row in dims], node, "an operator without a rule")
            out = [self.kept(index) for index in node.outs]
        else:
            out = [cast("Dims", found)] if node.single else cast("list[Dims]", found)
        self.values.update(zip(node.outs, out, strict=True))


def refs_in(tree: Any) -> list[Ref]:
    """The tensors of an argument, in order."""
    return [Ref(index) for index in refs(tree)]


def index_map(flow: Flow, node: Node, source: Ref, run: Callable[[Any], Any]) -> Dims:
    """Labels through an operator that only moves elements, found by running it on the elements' own indices.

    `run` applies the operator to a float tensor of the source's shape. Positions are numbered from 1 along each
    labelled dimension; a 0 in the result is padding. An output dimension gathers the labels of the source index it
    follows; a source dimension spread over several output dimensions is split.
    """
    shape, out_shape = flow.shape(source), flow.shape(node.out)
    out: list[list[Ints]] = [[] for _ in out_shape]
    for d, rows in enumerate(flow.dims(source)):
        if not flow.labels.live(rows):
            continue
        line = torch.arange(1.0, shape[d] + 1).view([-1 if e == d else 1 for e in range(len(shape))])
        index: Ints = run(line.expand(shape).clone()).long().numpy()
        if index.shape != out_shape or (index == 0).any():
            flow.freeze([rows], node, "it mixes a dimension with padding")
            continue
        index = index - 1
        axes = [e for e, n in enumerate(out_shape) if n > 1 and (index != index.take([0], e)).any()]
        if not axes:
            flow.freeze([rows[np.unique(index)]], node, "it picks one index of a dimension")
            continue
        grid = index[tuple(slice(None) if e in axes else 0 for e in range(len(out_shape)))]
        flat = flow.labels.resolve(rows)[grid.reshape(-1)]
        for e, part in zip(axes, flow.labels.split(flat, grid.shape) if len(axes) > 1 else [flat], strict=True):
            out[e].append(part)
    return [np.concatenate(parts, 1) if parts else frozen(n) for parts, n in zip(out, out_shape, strict=True)]
