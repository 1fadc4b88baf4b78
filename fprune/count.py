"""How large and how costly a model is: parameters and FLOPs, per module and in total."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, final

import attrs
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fprune.equality import named_modules
from fprune.errors import FpruneError, ModelError, close_matches
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.model import Model, borrowed
from fprune.structure.flops import flops
from fprune.structure.graph import Graph, Shape
from fprune.structure.operation import planned
from fprune.structure.record import record
from fprune.structure.trace import trace
from fprune.tables import html_table, text_table

__all__ = ["Cost", "Count", "count"]


@final
@attrs.frozen
class Cost:
    """What one module costs, everything inside it included.

    Examples:
        >>> Cost("fc", "Linear", params=12, flops=24)
        Cost(name='fc', type='Linear', params=12, flops=24)

    Args:
        name: dotted path; empty for the whole model.
        type: name of the module's class.
        params: elements of its parameters; of a shared parameter in the module that has its first name.
        flops: floating-point operations of all its calls.
    """

    name: str
    type: str
    params: int
    flops: int


@final
@attrs.frozen(repr=False)
class Count:
    """Parameters and FLOPs of a model; prints as a table of its modules.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> found = count(net, torch.ones(1, 4))
        >>> found
        Count(23 params, 36 FLOPs)
        >>> found["2"].flops
        12
        >>> print(found)
        module  type        params  FLOPs  share
        ------  ----------  ------  -----  ------
                Sequential  23      36     100.0%
        0       Linear      15      24     66.7%
        2       Linear      8       12     33.3%

    Args:
        modules: one entry for each module, the whole model first.
    """

    modules: tuple[Cost, ...]

    @property
    def params(self) -> int:
        """Elements of all parameters; shared ones count once."""
        return self.modules[0].params

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass on the example inputs, the whole batch."""
        return self.modules[0].flops

    def __getitem__(self, name: str) -> Cost:
        """The cost of one module, by its dotted path."""
        found = {cost.name: cost for cost in self.modules}
        if name not in found:
            raise ModelError(f"no module {name!r} in {self!r}", hint=close_matches(name, found))
        return found[name]

    def __repr__(self) -> str:
        """One line."""
        return f"Count({self.params:,} params, {self.flops:,} FLOPs)"

    def __str__(self) -> str:
        """A table of the modules that cost something."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table(), title=repr(self))

    def _table(self) -> tuple[list[str], list[list[str]]]:
        total = max(self.flops, 1)
        rows = [
            [cost.name, cost.type, f"{cost.params:,}", f"{cost.flops:,}", f"{cost.flops / total:.1%}"]
            for cost in self.modules
            if cost.params or cost.flops or not cost.name
        ]
        return ["module", "type", "params", "FLOPs", "share"], rows


def count(model: Model | nn.Module, example_inputs: object, masks: Masks | None = None) -> Count:
    """Count the parameters and FLOPs of a forward pass in evaluation mode.

    `FLOPs = 2 x multiply-accumulates` of convolutions, linear layers, matrix products and attention, as torch's own
    counter has it: a causal mask saves nothing, and activations, norms and biases count 0. The model runs on the meta
    device: no weight is copied and nothing is computed. One that branches on its data is run once on the inputs.

    With masks the count is that of the compact model, without building it: units that compaction would have to keep
    are counted.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.ones(1, 4)
        >>> count(net, x)
        Count(58 params, 96 FLOPs)
        >>> masks = Masks({"2.weight": torch.tensor([[True] * 3 + [False] * 5])})
        >>> count(net, x, masks)
        Count(23 params, 36 FLOPs)

    Args:
        model: a module or a `Model`, dense or compact; it is not changed.
        example_inputs: what `forward` is called with; FLOPs are those of the whole batch.
        masks: masks of this model, if any.

    Returns:
        Parameters and FLOPs by module, the total first.

    Raises:
        ModelError: the forward pass fails on the inputs, or the masks do not fit the model.
        StructureError: with masks, a model whose structure cannot be traced.
    """
    read, given = borrowed(model), Inputs.of(example_inputs) or Inputs()
    shapes = {name: tuple(value.shape) for name, value in read.items()}
    if masks:
        masks.check(read)
        with torch.no_grad():
            graph = planned(read.replace(masks.apply(read)), masks, trace(read, given)).structure.graph
        shapes.update({name: graph.shapes[index] for index, name in graph.tensors.items() if name not in read.buffers})
        return _count(read.skeleton, shapes, _recorded(graph))
    try:
        operations = _recorded(record(read, given))
    except FpruneError as problem:
        operations = _run(read, given, problem)
    return _count(read.skeleton, shapes, operations)


def _recorded(graph: Graph) -> dict[str, int]:
    """FLOPs by the module whose `forward` made the call."""
    out: dict[str, int] = {}
    for node in graph.nodes:
        out[node.module] = out.get(node.module, 0) + flops(node, graph.shapes.__getitem__)
    return out


def _run(model: Model, inputs: Inputs, problem: FpruneError) -> dict[str, int]:
    """The same by running the model, which branches on its data."""
    net = model.to_module().eval()
    try:
        with _plain_layers(), torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FUSED) as counter:
            inputs.call(net)
    except Exception as error:
        raise problem from error
    root = type(net).__name__
    whole = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    inside = {path: whole.get(f"{root}.{path}" if path else "Global", 0) for path, _ in named_modules(net)}
    return {path: n - sum(inside[child] for child in inside if _parent(child, path)) for path, n in inside.items()}


@contextmanager
def _plain_layers() -> Generator[None]:
    """Without the fused encoder layer, which the counter cannot see into."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _recurrent(x: Shape, w_input: Shape, w_hidden: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(x[:2]) * (prod(w_input) + prod(w_hidden))


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_FUSED = {
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
"""Formulas for what torch runs in one piece on some machines and its counter does not know."""


def _parent(child: str, path: str) -> bool:
    return bool(child) and child.rpartition(".")[0] == path


def _count(skeleton: nn.Module, shapes: Mapping[str, Iterable[int]], operations: Mapping[str, int]) -> Count:
    elements: dict[str, int] = {}
    for name, shape in shapes.items():
        owner = name.rpartition(".")[0]
        elements[owner] = elements.get(owner, 0) + prod(shape)
    params, work = _nested(elements), _nested(operations)
    modules = {path: type(module).__name__ for path, module in named_modules(skeleton)}
    return Count(tuple(Cost(path, kind, params.get(path, 0), work.get(path, 0)) for path, kind in modules.items()))


def _nested(own: Mapping[str, int]) -> dict[str, int]:
    """Each module's own number added to those of all modules around it."""
    out: dict[str, int] = {}
    for path, number in own.items():
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            around = ".".join(parts[:depth])
            out[around] = out.get(around, 0) + number
    return out
