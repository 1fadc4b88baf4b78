"""The recorded program: plain records, no torch internals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
from torch import Tensor

from fprune.structure.arguments import entries, rebuilt

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
        batched: sizes and lists of sizes, by schema name, that grow with the batch: one flag per entry.
        sources: size arguments, by schema name, whose entries were read from attributes of modules: an expression per
            entry.
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
    batched: Mapping[str, tuple[bool, ...]] = attrs.field(factory=dict[str, tuple[bool, ...]])
    sources: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict[str, tuple[Any, ...]])

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values it reads, in order, with repetitions."""
        return tuple(refs((self.args, self.kwargs)))

    @property
    def out(self) -> int:
        """The first value it makes."""
        return self.outs[0]

    def __str__(self) -> str:
        """The call and where it was made."""
        return f"{self.name} in {self.module or 'the root module'} ({self.site})"


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

    def picked(self, outputs: Sequence[T]) -> list[T]:
        """Of something that is given for each output, what belongs to those that have to stay as they are."""
        return list(outputs) if self.preserved is None else [outputs[position] for position in self.preserved]


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
