"""Write a program as a `torch.fx` graph whose sizes follow the inputs wherever the model's own code let them."""

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fprune.errors import StructureError
from fprune.structure.arguments import children, entries, listed, rebuilt
from fprune.structure.expressions import (
    Attribute,
    Combined,
    Expression,
    Size,
    cofactor,
    evaluated,
    factors,
    fraction,
    leaves,
)
from fprune.structure.graph import Graph, Node, Ref, present, refs
from fprune.structure.operators import overwritten
from fprune.structure.provenance import TracedInt


class Emitter:
    """Writes one program.

    Args:
        graph: the program.
        root: the module that will hold the graph; constants become buffers of it.
        names: names for the positional arguments.
        tensor: value of a parameter or buffer -> its dotted name in `root`.
        device: where factories make their tensors.
        home: path in the model of the module that `root` stands for.
    """

    def __init__(
        self,
        graph: Graph,
        root: nn.Module,
        names: Sequence[str],
        tensor: Callable[[int], str],
        device: torch.device,
        home: str = "",
    ) -> None:
        """Nothing written yet."""
        self._home = home
        self._graph, self._root, self._names = graph, root, names
        self._tensor, self._device = tensor, device
        self._out = fx.Graph()
        self._env: dict[int, Any] = {}
        self._constants = count(1)
        self._training: dict[str, fx.Node] = {}
        self._sizes: dict[Size, fx.Node] = {}

    def run(self) -> fx.Graph:
        """The graph."""
        args, kwargs = self._graph.arguments
        for i, value in enumerate(args):
            self._bind(self._out.placeholder(self._names[i] if i < len(self._names) else f"arg{i}"), value)
        for key, value in kwargs.items():
            self._bind(self._out.placeholder(key), value)
        for index in self._graph.tensors:
            self._env[index] = self._out.create_node("get_attr", self._tensor(index))
        for index, tensor in self._graph.constants.items():
            self._env[index] = self._constant(tensor)
        for node in self._graph.nodes:
            self._call(node)
        self._out.output(self._value(self._graph.returns))
        return self._out

    def _bind(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Ref):
            self._env[value.index] = node
        elif isinstance(value, TracedInt) and isinstance(value.expression, Size):
            self._sizes[value.expression] = node  # a size that is handed over as a number
        for key, item in children(value) or ():
            if any(isinstance(entry, (Ref, TracedInt)) for entry in entries(item)):
                self._bind(self._item(node, key), item)

    def _item(self, node: fx.Node, key: Any) -> fx.Node:
        return self._out.call_function(getitem, (node, key))

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{next(self._constants)}"
        self._root.register_buffer(name, tensor.to(self._device))
        return self._out.create_node("get_attr", name)

    def _call(self, node: Node) -> None:
        if node.op is overwritten:  # the emitted in-place call has already changed it
            self._env[node.out] = self._value(node.args[0])
            return
        names = list(node.bound)
        args = tuple(self._argument(node, names[i], value) for i, value in enumerate(node.args))
        kwargs = {name: self._argument(node, name, value) for name, value in node.kwargs.items()}
        left_out = names[len(args) :]  # torch does not pass what has its default value
        modes = [name for op, name in _MODES if op == node.name and name in left_out]
        kwargs.update({name: self._argument(node, name, node.bound[name]) for name in modes})
        made = self._out.call_function(node.op, args, kwargs)
        if node.single:
            self._env[node.out] = made
        else:
            self._env.update({index: self._item(made, i) for i, index in enumerate(node.outs)})

    def _argument(self, node: Node, name: str, value: Any) -> Any:
        if (node.name, name) in _MODES and value is False:
            return self._mode(node.module)
        if name == "device" and value is not None:
            return self._device
        expressions = node.sources.get(name, ())
        sizes = listed(value)
        if len(expressions) == len(sizes) and all(isinstance(n, int) for n in sizes):
            found = [self._size(n, expression) for n, expression in zip(sizes, expressions, strict=True)]
            return found if isinstance(value, (list, tuple)) else found[0]
        return self._value(value)

    def _mode(self, path: str) -> fx.Node:
        """The `training` flag of the module that makes a call."""
        path = path.removeprefix(f"{self._home}.") if self._home and path != self._home else path
        path = "" if path == self._home else path
        if path not in self._training:
            contained(self._root, path.split(".") if path else [])
            self._training[path] = self._out.create_node("get_attr", f"{path}.training".lstrip("."))
        return self._training[path]

    def _size(self, n: int, expression: Expression | None) -> Any:
        """A size as an expression of the sizes of values where that gives `n`, else as a number."""
        if expression is None or n == -1:
            return n
        if evaluated(expression, self._present) == n and any(self._reads(leaf) for leaf in leaves(expression)):
            return self._written(expression)
        part = fraction(n, expression, self._present)
        if part is not None and self._reads(part[0]):
            return self._out.call_function(_FUNCTIONS["//"], (self._written(part[0]), part[1]))
        read = [factor for factor in factors(expression) if isinstance(factor, Size) and self._reads(factor)]
        rest, sizes = cofactor(n, read, self._present)
        return self._product(rest, [self._written(size) for size in sizes])

    def _product(self, n: int, sizes: list[Any]) -> Any:
        product: Any = sizes.pop() if sizes and n == 1 else n
        for size in sizes:
            product = self._out.call_function(_FUNCTIONS["*"], (size, product))
        return product

    def _present(self, leaf: Attribute | Size) -> int:
        return present(self._graph, leaf)

    def _reads(self, leaf: Attribute | Size) -> bool:
        return isinstance(leaf, Size) and (leaf in self._sizes or leaf.value in self._env)

    def _written(self, expression: Expression) -> Any:
        if isinstance(expression, Combined):
            parts = (self._written(expression.left), self._written(expression.right))
            if all(isinstance(part, int) for part in parts):
                return evaluated(expression, self._present)
            return self._out.call_function(_FUNCTIONS[expression.symbol], parts)
        if isinstance(expression, Size) and self._reads(expression):
            if expression not in self._sizes:
                at = (self._env[expression.value], expression.dim)
                self._sizes[expression] = self._out.call_method("size", at)
            return self._sizes[expression]
        return expression if isinstance(expression, int) else self._present(expression)

    def _value(self, tree: Any) -> Any:
        return rebuilt(tree, self._entry)

    def _entry(self, value: Any) -> Any:
        if isinstance(value, Ref):
            if value.index not in self._env:
                raise StructureError("it uses a value that it is not given")
            return self._env[value.index]
        if isinstance(value, Tensor):
            return self._constant(value)
        if isinstance(value, dict):
            return self._mapping(cast("dict[str, Any]", value))
        if _holds(value):
            raise StructureError(
                f"a graph cannot build a {type(value).__name__}", hint="return tensors in tuples, lists or dicts"
            )
        return value

    def _mapping(self, value: dict[str, Any]) -> fx.Node:
        """A dict of a class of its own, such as the outputs of model libraries, which are data classes as well."""
        kind, items = type(value), {key: self._value(item) for key, item in value.items()}
        if is_dataclass(kind):
            return self._out.call_function(kind, kwargs=items)
        return self._out.call_function(kind, (items,))


_MODES = {
    ("batch_norm", "training"),
    ("instance_norm", "use_input_stats"),
    ("dropout", "train"),
    ("feature_dropout", "train"),
    ("alpha_dropout", "train"),
    ("feature_alpha_dropout", "train"),
    ("rrelu", "training"),
}


def _holds(tree: Any) -> bool:
    return next(refs(tree), None) is not None


def contained(root: nn.Module, owners: Sequence[str]) -> nn.Module:
    """The module at a path, made with those around it where there is none."""
    for owner in owners:
        if owner not in dict(root.named_children()):
            root.add_module(owner, nn.Module())
        root = root.get_submodule(owner)
    return root


def getitem(container: Any, key: Any) -> Any:
    """One entry of a container."""
    return container[key]


def added(a: int, b: int) -> int:
    """The sum of two sizes."""
    return a + b


def subtracted(a: int, b: int) -> int:
    """The difference of two sizes."""
    return a - b


def multiplied(a: int, b: int) -> int:
    """The product of two sizes."""
    return a * b


def divided(a: int, b: int) -> int:
    """The quotient of two sizes, rounded down."""
    return a // b


_FUNCTIONS = {"+": added, "-": subtracted, "*": multiplied, "//": divided}
