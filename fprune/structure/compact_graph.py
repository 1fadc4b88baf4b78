"""Compaction as a `torch.fx.GraphModule`: for models whose code spells out sizes that surgery changes."""

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fprune.equality import named_tensors
from fprune.errors import StructureError
from fprune.model import Model
from fprune.structure.arguments import children, listed, rebuilt
from fprune.structure.graph import Graph, Node, Ref, refs
from fprune.structure.operators import aten, overwritten
from fprune.tree import Flat


def as_graph(model: Model, graph: Graph, tensors: Mapping[str, Tensor]) -> Model:
    """The program as a module of its own, with the parameter names of the model.

    Sizes that grew with the batch when it was recorded are computed from the first input; `training` follows the
    module.

    Args:
        model: the model before surgery, for its signature and which tensors are parameters.
        graph: the program after surgery.
        tensors: every parameter and buffer after surgery.

    Raises:
        StructureError: the forward pass takes or returns something a graph cannot build.
    """
    root, twins = nn.Module(), named_tensors(model.skeleton)
    for name in graph.tensors.values():
        old, meta = twins.get(name), torch.empty_like(tensors[name], device="meta")
        parameter = old is None or isinstance(old, nn.Parameter)
        _put(root, name, nn.Parameter(meta, old is None or old.requires_grad) if parameter else meta)
    emitted = _Emitter(model, graph, root).run()
    net = fx.GraphModule(root, emitted, type(model.skeleton).__name__)
    made = {name: value for name, value in net.named_buffers() if name not in tensors}
    used = set(graph.tensors.values())
    memo = {id(value): torch.empty_like(value, device="meta") for value in made.values()}
    buffers = {
        name: tensors[name] for name in used if not isinstance(twins.get(name), nn.Parameter) and name in model.buffers
    }
    params = {name: tensors[name] for name in used if name not in buffers}
    for name, value in made.items():
        _put(net, name, memo[id(value)])
    net.train(model.training)
    return Model(net, Flat(params), Flat({**buffers, **made}), model.training)


def _put(root: nn.Module, path: str, tensor: Tensor) -> None:
    *owners, leaf = path.split(".")
    for owner in owners:
        if owner not in dict(root.named_children()):
            root.add_module(owner, nn.Module())
        root = root.get_submodule(owner)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


class _Emitter:
    """Writes a program as an fx graph."""

    def __init__(self, model: Model, graph: Graph, root: nn.Module) -> None:
        """Nothing written yet."""
        self._graph, self._root = graph, root
        self._device = model.device
        self._names = list(inspect.signature(model.skeleton.forward).parameters)
        self._out = fx.Graph()
        self._env: dict[int, Any] = {}
        self._made = 0
        self._batch: list[fx.Node] = []
        self._training: list[fx.Node] = []

    def run(self) -> fx.Graph:
        args, kwargs = self._graph.arguments
        for i, value in enumerate(args):
            self._bind(self._out.placeholder(self._names[i] if i < len(self._names) else f"arg{i}"), value)
        for key, value in kwargs.items():
            self._bind(self._out.placeholder(key), value)
        for index, name in self._graph.tensors.items():
            self._env[index] = self._out.create_node("get_attr", name)
        for index, tensor in self._graph.constants.items():
            self._env[index] = self._constant(tensor)
        for node in self._graph.nodes:
            self._call(node)
        self._out.output(self._value(self._graph.returns))
        return self._out

    def _bind(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Ref):
            self._env[value.index] = node
            return
        for key, item in children(value) or ():
            if _holds(item):
                self._bind(self._item(node, key), item)

    def _item(self, node: fx.Node, key: Any) -> fx.Node:
        return self._out.call_function(getitem, (node, key))

    def _constant(self, tensor: Tensor) -> fx.Node:
        self._made += 1
        self._root.register_buffer(f"constant_{self._made}", tensor.to(self._device))
        return self._out.create_node("get_attr", f"constant_{self._made}")

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
            if not self._training:
                self._training.append(self._out.create_node("get_attr", "training"))
            return self._training[0]
        if name == "device" and value is not None:
            return self._device
        if name in node.batched:
            sizes = [self._size(n, grows) for n, grows in zip(listed(value), node.batched[name], strict=True)]
            return sizes if isinstance(value, (list, tuple)) else sizes[0]
        return self._value(value)

    def _size(self, n: int, grows: bool) -> Any:
        first = self._graph.inputs[0]
        batch = self._graph.shapes[first][0]
        if not grows or n % batch:
            return n
        if not self._batch:
            self._batch.append(self._out.call_function(aten("sym_size", "int"), (self._env[first], 0)))
        return self._batch[0] if n == batch else self._out.call_function(multiplied, (self._batch[0], n // batch))

    def _value(self, tree: Any) -> Any:
        return rebuilt(tree, self._entry)

    def _entry(self, value: Any) -> Any:
        if isinstance(value, Ref):
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


def getitem(container: Any, key: Any) -> Any:
    """One entry of a container."""
    return container[key]


def multiplied(batch: int, factor: int) -> int:
    """A size that grows with the batch."""
    return batch * factor
