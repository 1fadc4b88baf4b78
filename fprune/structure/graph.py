"""The recorded program: plain records, no torch internals."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
from torch import Tensor

from fprune.structure.arguments import entries, rebuilt
from fprune.structure.expressions import Attribute, Expression, Size
from fprune.structure.names import named, operator

Shape: TypeAlias = tuple[int, ...]
T = TypeVar("T")


@attrs.frozen
class Ref:
    """A value of the program, by number."""

    index: int


@attrs.frozen(eq=False)
class Node:
    """One call: what was called, with what, and which values came out.

    Args:
        op: the callable; a torch operator, or one of fprune's own functions after a rewrite.
        name: the operator's plain name, `"conv2d"`, without namespace or the underscore of the in-place form.
        args: positional arguments, tensors replaced by `Ref`.
        kwargs: keyword arguments, likewise.
        bound: every argument by its name in the operator's schema, defaults filled in.
        outs: the values it makes, flattened.
        single: whether it returns one tensor rather than a sequence.
        module: dotted path of the module whose `forward` made the call.
        site: `file:line` of the user's code.
        sources: size arguments, by schema name, whose entries were read from attributes of modules or shapes of
            tensors: an expression per entry.
        call: the number of the module call in which it was made.
    """

    op: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    bound: Mapping[str, Any]
    outs: tuple[int, ...]
    single: bool
    module: str
    site: str
    sources: Mapping[str, tuple[Expression | None, ...]] = attrs.field(
        factory=dict[str, tuple["Expression | None", ...]]
    )
    call: int = 0

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values it reads, in order, with repetitions."""
        return tuple(refs((self.args, self.kwargs)))

    @property
    def numbers(self) -> bool:
        """Whether it is given numbers other than dimensions, groups and the like."""
        return any(_holds_number(value) for name, value in self.bound.items() if name not in _FIXED)

    @property
    def out(self) -> int:
        """The first value it makes."""
        return self.outs[0]

    def __str__(self) -> str:
        """The call and where it was made."""
        return f"{self.name} in {self.module or 'the root module'} ({self.site})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Operators of torch do not travel to other processes, their names do.
        _, *others = (getattr(self, field.name) for field in attrs.fields(Node))
        return _node, (named(self.op), *others)


def _node(op: str | Callable[..., Any], *others: Any) -> Node:
    return Node(operator(op), *others)


_FIXED = frozenset("dim dims dim0 dim1 axis keepdim groups stride padding dilation eps normalized_shape dtype".split())


def _holds_number(tree: Any) -> bool:
    return any(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in entries(tree))


@attrs.frozen(eq=False)
class Call:
    """One call of a module.

    Args:
        path: dotted path of the module; empty for the root.
        parent: the number of the call that made it, -1 for the root's.
        arguments: what it was given, `(args, kwargs)`, tensors replaced by `Ref`.
        returns: what it returned, likewise.
    """

    path: str
    parent: int
    arguments: Any
    returns: Any


@attrs.frozen
class Read:
    """A place where the model looks at values computed from its inputs: the program is that of these inputs.

    Args:
        operator: what looks.
        site: `file:line` of the user's code.
        call: the number of the module call in which it happens.
        value: how many values the program had made by then.
        number: whether it gives a number, which code may go on to compute with, rather than a choice of branch.
        until: the value from which on no call holds that number; infinite if the user's code has it.
    """

    operator: str
    site: str
    call: int
    value: int
    number: bool
    until: float = math.inf

    def __str__(self) -> str:
        """What and where."""
        return f"{self.operator} at {self.site}"


@attrs.frozen(eq=False)
class Graph:
    """A model's forward pass on one set of inputs, as a straight-line program.

    Args:
        nodes: the calls that lead to an output, in order.
        shapes: the shape of each value, by number.
        inputs: the tensor inputs, in the order of the flattened arguments.
        tensors: value -> canonical name of a parameter or buffer.
        constants: value -> tensor that is neither, such as one made in `__init__` and kept as a plain attribute.
        outputs: the values returned, flattened.
        returns: what the forward pass returned, tensors replaced by `Ref`.
        arguments: what the forward pass was given, `(args, kwargs)`, tensors replaced by `Ref`.
        preserved: positions among the outputs of those that have to stay as they are; None for all of them.
        masks: the values that hold booleans; as an index such a value says which entries to take.
        calls: the module calls, in the order in which they began.
        reads: where the model looked at values computed from its inputs.
        attributes: the integer attributes of modules and their values.
    """

    nodes: tuple[Node, ...]
    shapes: tuple[Shape, ...]
    inputs: tuple[int, ...]
    tensors: Mapping[int, str]
    constants: Mapping[int, Tensor]
    outputs: tuple[int, ...]
    returns: Any
    arguments: Any
    preserved: tuple[int, ...] | None = None
    masks: frozenset[int] = frozenset()
    calls: tuple[Call, ...] = ()
    reads: tuple[Read, ...] = ()
    attributes: Mapping[Attribute, int] = attrs.field(factory=dict[Attribute, int])

    def unsure(self, node: Node) -> bool:
        """Whether a call may hold numbers that were computed from the inputs."""
        return node.numbers and any(read.number and read.value <= node.out < read.until for read in self.reads)

    def picked(self, outputs: Sequence[T]) -> list[T]:
        """Of something that is given for each output, what belongs to those that have to stay as they are."""
        return list(outputs) if self.preserved is None else [outputs[position] for position in self.preserved]


def within(path: str, others: Collection[str]) -> bool:
    """Whether a module is one of some others, or inside one."""
    return any(path == other or path.startswith(f"{other}.") for other in others)


def present(graph: Graph, leaf: Attribute | Size) -> int:
    """The value of an attribute or a size in the program."""
    return graph.attributes[leaf] if isinstance(leaf, Attribute) else graph.shapes[leaf.value][leaf.dim]


def refs(tree: Any) -> Iterator[int]:
    """The values that occur in an argument tree, depth first."""
    return (entry.index for entry in entries(tree) if isinstance(entry, Ref))


def substitute(tree: Any, value: Callable[[int], Any]) -> Any:
    """The argument tree with each `Ref` replaced by `value(index)`; everything else as it is."""
    return rebuilt(tree, lambda entry: value(entry.index) if isinstance(entry, Ref) else entry)


def run(
    graph: Graph, call: Callable[[Node, tuple[Any, ...], dict[str, Any]], Any], env: dict[int, Any]
) -> dict[int, Any]:
    """Run the program over any domain: `env` holds inputs, tensors and constants, `call` evaluates one node.

    `call` gets the node and its arguments with values filled in, and returns one value, or one per output.
    """
    for node in graph.nodes:
        args = substitute(node.args, env.__getitem__)
        kwargs = substitute(dict(node.kwargs), env.__getitem__)
        result = call(node, args, kwargs)
        env.update(zip(node.outs, (result,) if node.single else result, strict=True))
    return env
