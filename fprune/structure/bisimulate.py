"""Run the masked and the compact program side by side: every value must be the masked one's kept part."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from fprune.errors import StructureError
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.model import Model
from fprune.structure.arguments import listed
from fprune.structure.capture import cloned
from fprune.structure.expressions import Attribute, Size, resized
from fprune.structure.flow import RULES
from fprune.structure.graph import Graph, Node, present, substitute
from fprune.structure.operation import planned, tensors_after
from fprune.structure.operators import placed
from fprune.structure.outputs import leaves
from fprune.structure.rewrite import REWRITES, Cut, called
from fprune.structure.trace import Structure
from fprune.structure.trials import Trial
from fprune.structure.verify import difference
from fprune.structure.wide import wide

_UNSET = frozenset("empty new_empty empty_like empty_strided new_empty_strided".split())
"""What these operators return is whatever was in memory."""


CLOSE = 1e-9
"""The largest relative difference in float64 that counts as rounding."""


@attrs.frozen
class Divergence:
    """A call whose results are not the kept part of what the masked program computes there.

    Args:
        call: the operator, its module and the line of the user's code.
        rules: the rules that handle the operator: how labels pass through it, and how its arguments were rewritten.
        gap: the largest difference, relative to the largest entry of the call's results and arguments; infinite when
            shapes differ or the call fails.
        problem: why the call fails; empty if it does not.
    """

    call: str
    rules: tuple[str, ...]
    gap: float
    problem: str = ""

    def __str__(self) -> str:
        """One line: what, where, by how much, whose fault it may be."""
        what = self.problem or f"differs by {self.gap:.1e}"
        return f"{self.call}: {what} (handled by {', '.join(self.rules) or 'no rule'})"


def bisimulate(
    model: Model,
    masks: Masks,
    structure: Structure,
    inputs: object = None,
    *,
    tolerance: float = CLOSE,
    decided: bool = False,
) -> tuple[Divergence, ...]:
    """Compare the program before and after a compaction value by value, in float64.

    After surgery every value must equal the masked model's value restricted to its kept indices. Where the compact
    model's outputs are wrong, the first call that breaks this names the rule to look at.

    Examples:
        >>> import torch
        >>> from fprune import Masks, Model
        >>> from fprune.structure import bisimulate, trace
        >>> model = Model.from_module(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
        >>> masks = Masks({"1.weight": torch.tensor([[True, False, True]])})
        >>> bisimulate(model, masks, trace(model, torch.ones(1, 4)))
        ()

    Args:
        model: the model; the masks need not be applied to it yet.
        masks: which of its entries are pruned.
        structure: its couplings.
        inputs: what to run on; the example inputs of the structure if left out.
        tolerance: the largest difference to pass over, relative to the call's largest result or argument.
        decided: whether orders and choices are taken over from the masked model: where two scores are equal, rounding
            decides which comes first.

    Returns:
        The calls that differ, in order; empty when the compaction is exact.
    """
    with torch.no_grad():
        masked = model.replace(masks.apply(model))
        operation = planned(masked, masks, structure)
        tensors = tensors_after(masked, operation)
    trial = Trial("node by node", Inputs.of(inputs) or structure.inputs, wide=True)
    found = divergences(operation.cut, operation.structure.graph, masked, tensors, trial, tolerance, decided=decided)
    return tuple(found)


def divergences(
    cut: Cut,
    new: Graph,
    masked: Model,
    tensors: Mapping[str, Tensor],
    trial: Trial,
    tolerance: float = CLOSE,
    *,
    decided: bool = False,
) -> Iterator[Divergence]:
    """The calls at which the program after surgery parts from the masked one, in order; ends where a call fails.

    Args:
        cut: what stays.
        new: the program after surgery.
        masked: the masked model.
        tensors: parameters and buffers after surgery.
        trial: what to run on.
        tolerance: the largest difference to pass over.
        decided: whether orders and choices are taken over from the masked program: where two scores are equal, rounding
            decides which comes first, and everything after it looks different.
    """
    old = cut.structure.graph
    before = _Machine(old, masked.params.merged(masked.buffers), trial, masked.device)
    after = _Machine(new, tensors, trial, masked.device)
    pending = iter(old.nodes)
    with trial.precision():
        for node in new.nodes:
            try:
                while not before.has(node.outs) and (other := next(pending, None)) is not None:
                    before.call(other)
                after.call(node)
            except Exception as error:
                yield _divergence(node, float("inf"), f"{type(error).__name__}: {error}")
                return
            if decided:
                after.adopt(cut, node, before)
            gap = max((_gap(cut, node, index, before, after) for index in node.outs), default=0.0)
            if not gap <= tolerance:
                yield _divergence(node, gap)


def first_difference(cut: Cut, new: Graph, masked: Model, tensors: Mapping[str, Tensor], trial: Trial) -> str:
    """Where two programs part in a trial; empty when every value of the one is the kept part of the other's."""
    return str(next(divergences(cut, new, masked, tensors, trial), ""))


def _gap(cut: Cut, node: Node, index: int, before: "_Machine", after: "_Machine") -> float:
    if not before.has((index,)):
        return 0.0  # a value that only the new program has
    expected = cut.tensor(index, before.values[index])
    read = [after.values[i] for i in node.inputs]
    scale = max((x.abs().max().item() for x in read if x.is_floating_point() and x.numel()), default=0.0)
    return difference(expected, after.values[index], scale if scale < float("inf") else 0.0)


def _divergence(node: Node, gap: float, problem: str = "") -> Divergence:
    named = [("rule", RULES), ("rewrite", REWRITES)]
    found = [f"{kind} {_told(table[node.name])}" for kind, table in named if node.name in table]
    return Divergence(str(node), tuple(found), gap, problem)


def _told(fn: Any) -> str:
    return f"{fn.__module__}.{fn.__name__}"


class _Machine:
    """Runs a program call by call on the inputs of a trial."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], trial: Trial, device: torch.device) -> None:
        given = leaves(cloned((trial.inputs.args, dict(trial.inputs.kwargs))))
        if len(given) != len(graph.inputs):
            raise StructureError(f"{len(given)} tensors given, {len(graph.inputs)} expected")
        copied = {index: tensors[name].detach().clone() for index, name in graph.tensors.items()}
        copied.update({index: value.clone() for index, value in graph.constants.items()})
        copied.update(zip(graph.inputs, given, strict=True))
        self.values = {index: cast("Tensor", wide(x)) if trial.wide else x for index, x in copied.items()}
        self._device, self._graph = device, graph

    def has(self, outs: tuple[int, ...]) -> bool:
        return all(index in self.values for index in outs)

    def call(self, node: Node) -> None:
        node = self._sized(node)
        args = placed(substitute(node.args, self.values.__getitem__), self._device)
        kwargs = placed(substitute(dict(node.kwargs), self.values.__getitem__), self._device)
        result = node.op(*args, **kwargs)
        if node.name in _UNSET:
            result.zero_()
        self.values.update(zip(node.outs, (result,) if node.single else result, strict=True))

    def adopt(self, cut: Cut, node: Node, other: "_Machine") -> None:
        """Take over what another program chose by comparing numbers, which are known to agree."""
        if any(self.values[index].is_floating_point() for index in node.inputs) and other.has(node.outs):
            chosen = [index for index in node.outs if not self.values[index].is_floating_point()]
            self.values.update({index: cut.tensor(index, other.values[index]) for index in chosen})

    def _sized(self, node: Node) -> Node:
        """Sizes that were read from shapes, for the shapes at hand."""
        changes: dict[str, Any] = {}
        for name, expressions in node.sources.items():
            sizes = listed(node.bound.get(name))
            if len(sizes) == len(expressions) and all(isinstance(n, int) for n in sizes):
                found = [resized(n, e, self._recorded, self._actual) for n, e in zip(sizes, expressions, strict=True)]
                changes[name] = found if isinstance(node.bound[name], (list, tuple)) else found[0]
        return called(node, **changes) if changes else node

    def _recorded(self, leaf: Attribute | Size) -> int:
        return present(self._graph, leaf)

    def _actual(self, leaf: Attribute | Size) -> int:
        if isinstance(leaf, Size) and leaf.value in self.values:
            return self.values[leaf.value].shape[leaf.dim]
        return present(self._graph, leaf)
