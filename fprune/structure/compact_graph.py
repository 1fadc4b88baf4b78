"""Compaction as a `torch.fx.GraphModule`: of a whole model, or of one module whose code cannot hold the new sizes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from fprune.equality import named_modules, named_tensors
from fprune.errors import StructureError
from fprune.model import Model
from fprune.structure.arguments import entries, rebuilt
from fprune.structure.emit import Emitter, contained
from fprune.structure.graph import Graph, Ref, refs, substitute
from fprune.tree import Flat


def as_graph(model: Model, graph: Graph, tensors: Mapping[str, Tensor]) -> Model:
    """The program as a module of its own, with the parameter names of the model.

    Sizes that the model's code reads from shapes are read from shapes; `training` follows the module.

    Args:
        model: the model before surgery, for its signature and which tensors are parameters.
        graph: the program after surgery.
        tensors: every parameter and buffer after surgery.

    Raises:
        StructureError: the forward pass takes or returns something a graph cannot build, or branches on its inputs.
    """
    if graph.reads:
        raise StructureError(
            f"the model reads values computed from its inputs ({graph.reads[0]}): a graph would hold one branch only",
            hint="style='module' keeps the code that decides",
        )
    twins = named_tensors(model.skeleton)
    held: dict[str, Tensor] = {}
    for name in graph.tensors.values():
        old, meta = twins.get(name), torch.empty_like(tensors[name], device="meta")
        parameter = old is None or isinstance(old, nn.Parameter)
        held[name] = nn.Parameter(meta, old is None or old.requires_grad) if parameter else meta
    net = _module(model.skeleton, graph, held, graph.tensors.__getitem__, model.device)
    made = {name: value for name, value in net.named_buffers() if name not in tensors}
    used = set(graph.tensors.values())
    memo = {id(value): torch.empty_like(value, device="meta") for value in made.values()}
    buffers = {
        name: tensors[name] for name in used if not isinstance(twins.get(name), nn.Parameter) and name in model.buffers
    }
    params = {name: tensors[name] for name in used if name not in buffers}
    for name, value in made.items():
        _put(net, name, memo[id(value)])
    _in_modes(net, model.skeleton)
    return Model(net, Flat(params), Flat({**buffers, **made}), model.training)


def write_forward(net: nn.Module, path: str, graph: Graph, device: torch.device) -> None:
    """Let one module of a model make the calls of the program after surgery, instead of what its code says.

    The module keeps its parameters, its submodules and its attributes; its class becomes one of its own, derived from
    the old, whose `forward` is generated.

    Args:
        net: the model after surgery, on the meta device, its parameters in place; changed.
        path: the module.
        graph: the whole program after surgery.
        device: where factories make their tensors.

    Raises:
        StructureError: the module uses values it is not given, returns something that a graph cannot build, branches
            on values, or does different things in different calls.
    """
    numbers = [n for n, call in enumerate(graph.calls) if call.path == path]
    parts = [_part(graph, n) for n in numbers]
    if not parts:
        raise StructureError(f"{path}: it was never called")
    if len({_form(part) for part in parts}) > 1:
        raise StructureError(f"{path}: it does different things in different calls")
    prefix, own = f"{path}.", named_tensors(net)
    local = {id(tensor): name.removeprefix(prefix) for name, tensor in own.items() if name.startswith(prefix)}

    def name(index: int) -> str:
        found = local.get(id(own[graph.tensors[index]]))
        if found is None:
            raise StructureError(f"{path}: it uses {graph.tensors[index]}, which is not its own")
        return found

    part, module = parts[0], net.get_submodule(path)
    held = {name(index): own[graph.tensors[index]] for index in part.tensors}
    made = _module(module, part, held, name, device, path)
    for constant, value in made.named_buffers(recurse=False):
        if constant not in held:
            module.register_buffer(constant, value)
    kind = type(module)
    kind = getattr(kind, "rewrites", kind)
    derived: Any = type(
        f"{kind.__name__}Graph", (kind,), {"forward": type(made).forward, "rewrites": kind, "generated_code": made.code}
    )
    module.__class__ = derived


def _in_modes(net: fx.GraphModule, old: nn.Module) -> fx.GraphModule:
    """Each part in the training or evaluation mode that the module of its name has."""
    flags = {path: module.training for path, module in named_modules(old)}
    for path, module in named_modules(net):
        module.training = flags.get(path, old.training)
    return net


def _module(
    old: nn.Module,
    graph: Graph,
    held: Mapping[str, Tensor],
    name: Callable[[int], str],
    device: torch.device,
    home: str = "",
) -> fx.GraphModule:
    root = nn.Module()
    for path, tensor in held.items():
        _put(root, path, tensor)
    emitted = Emitter(graph, root, list(inspect.signature(old.forward).parameters), name, device, home).run()
    return fx.GraphModule(root, emitted, type(old).__name__)


def _part(graph: Graph, number: int) -> Graph:
    """The program of one module call."""
    call, inside = graph.calls[number], {number}
    for n, other in enumerate(graph.calls):  # a call comes after the one that made it
        if other.parent in inside:
            inside.add(n)
    reads = [read for read in graph.reads if read.call in inside]
    if reads:
        raise StructureError(f"{call.path}: it reads values computed from its inputs ({reads[0]})")
    nodes = tuple(node for node in graph.nodes if node.call in inside)
    given = set(refs(call.arguments))
    used = {index for node in nodes for index in node.inputs} | set(refs(call.returns))
    there = {*given, *graph.tensors, *graph.constants, *(index for node in nodes for index in node.outs)}
    # what nobody uses was left out of the program
    returns = rebuilt(call.returns, lambda x: None if isinstance(x, Ref) and x.index not in there else x)
    if any(isinstance(x, Tensor) for x in entries(returns)):
        raise StructureError(f"{call.path}: it returns a tensor that no operator made")
    return attrs.evolve(
        graph,
        nodes=nodes,
        inputs=tuple(refs(call.arguments)),
        tensors={index: name for index, name in graph.tensors.items() if index in used and index not in given},
        constants={index: value for index, value in graph.constants.items() if index in used},
        outputs=tuple(refs(returns)),
        returns=returns,
        arguments=call.arguments,
    )


def _form(part: Graph) -> str:
    """What a program does, its values numbered by first appearance."""
    order: dict[int, int] = {}

    def numbered(index: int) -> str:
        own = index in part.tensors or index in part.constants
        return f"@{index}" if own else f"%{order.setdefault(index, len(order))}"

    lines = [str(substitute(part.arguments, numbered))]
    for node in part.nodes:
        given, made = substitute((node.args, dict(node.kwargs)), numbered), [numbered(index) for index in node.outs]
        lines.append(f"{made} = {node.op} {given}")
    return "\n".join([*lines, str(substitute(part.returns, numbered))])


def _put(root: nn.Module, path: str, tensor: Tensor) -> None:
    *owners, leaf = path.split(".")
    root = contained(root, owners)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)
