"""Compaction in the model's own class: its code with smaller tensors, in layers that know their new sizes."""

from collections.abc import Iterable, Mapping
from functools import cache

import attrs
import torch
from torch import Tensor, nn

from fprune.equality import named_modules, named_tensors
from fprune.errors import StructureError
from fprune.model import Model
from fprune.skeleton import resized
from fprune.structure.compact_graph import write_forward
from fprune.structure.compact_layers import Unfit, fit, fitted
from fprune.structure.expressions import Attribute
from fprune.structure.graph import Graph, Node, within
from fprune.structure.provenance import write
from fprune.structure.solve import solve
from fprune.tree import Flat


@attrs.frozen(eq=False)
class Rebuilt:
    """A model in its own class, and what had to change besides its tensors.

    Args:
        model: the model.
        attributes: the present values of its modules' integer attributes.
        replaced: modules whose code could not hold the new sizes: each is now the graph of its calls.
    """

    model: Model
    attributes: Mapping[Attribute, int]
    replaced: tuple[str, ...]


def in_class(model: Model, old: Graph, new: Graph, tensors: Mapping[str, Tensor], replaced: Iterable[str]) -> Rebuilt:
    """The model with other tensors, in its own class.

    Args:
        model: the model before surgery.
        old: the program before surgery.
        new: the program after surgery.
        tensors: every parameter and buffer after surgery; a bias that a layer lacked may be among them.
        replaced: modules to replace by graphs in any case.

    Raises:
        StructureError: the class cannot hold the result: it is the root module whose code would have to change.
    """
    apart = set(replaced)
    paths = dict(named_modules(model.skeleton))
    generated = cache(lambda: attrs.evolve(new, attributes=solve(old, new, new.nodes).attributes))
    while True:
        own = [node for node in new.nodes if not within(node.module, apart)]
        coded = [node for node in own if not fitted(paths[node.module], node)]
        solution = solve(old, new, coded)
        try:
            if solution.failed:
                raise Unfit(solution.failed[0], {node.module for node in solution.failed})
            inner = generated() if apart else new
            net = _rebuilt(model, attrs.evolve(new, attributes=solution.attributes), inner, tensors, apart)
        except Unfit as unfit:
            if "" in unfit.paths:
                raise StructureError(
                    f"{unfit.node}: the code of the root module spells out a size that changes"
                ) from None
            more = _outermost(apart | unfit.paths)
            if more == apart:
                raise StructureError(f"{unfit.node}: not even graphs of {sorted(apart)} can hold it") from None
            apart = more
            continue
        return Rebuilt(net, solution.attributes, tuple(sorted(apart)))


def _rebuilt(model: Model, graph: Graph, inner: Graph, tensors: Mapping[str, Tensor], apart: set[str]) -> Model:
    """The model with `apart` replaced: `graph` has the attributes that code takes, `inner` those that graphs take."""
    skeleton = model.skeleton
    twins = named_tensors(skeleton)
    net = resized(skeleton, {name: tensor for name, tensor in tensors.items() if name in twins})
    added = {name: tensor for name, tensor in tensors.items() if name not in twins}
    modules = dict(named_modules(net))
    for name, tensor in added.items():
        owner, _, leaf = name.rpartition(".")
        if owner not in modules or getattr(modules[owner], leaf, 0) is not None:
            raise Unfit(f"{name}: the constants of a shared or computed weight", {_user(graph, name)})
        modules[owner].register_parameter(leaf, nn.Parameter(torch.empty_like(tensor, device="meta")))
    calls: dict[str, list[Node]] = {}
    for node in graph.nodes:
        calls.setdefault(node.module, []).append(node)
    for path, module in modules.items():
        try:
            fit(net, path, module, calls.get(path, []), graph)
        except Unfit:
            if not within(path, apart):
                raise
    for where, size in graph.attributes.items():
        if not within(where.path, apart):
            write(modules[where.path], where, size)
    for path in apart:
        try:
            write_forward(net, path, inner, model.device)
        except StructureError as error:
            raise Unfit(error, {_caller(graph, path)}) from error
    constants = {name: value for name, value in named_tensors(net).items() if not value.is_meta}
    for name, value in constants.items():
        owner, _, leaf = name.rpartition(".")
        net.get_submodule(owner).register_buffer(leaf, torch.empty_like(value, device="meta"))
    buffers = {name: tensors[name] for name in model.buffers}
    return Model(
        net,
        Flat({name: tensors[name] for name in (*model.params, *added)}),
        Flat({**buffers, **constants}),
        model.training,
    )


def _caller(graph: Graph, path: str) -> str:
    """The module whose code calls another; for one that is never called, the module it is part of."""
    parents = [graph.calls[call.parent].path for call in graph.calls if call.path == path and call.parent >= 0]
    return parents[0] if parents else path.rpartition(".")[0]


def _outermost(paths: set[str]) -> set[str]:
    return {path for path in paths if not within(path, paths - {path})}


def _user(graph: Graph, name: str) -> str:
    """The module that makes the call which reads a tensor."""
    index = next(index for index, found in graph.tensors.items() if found == name)
    return next(node.module for node in graph.nodes if index in node.inputs)
