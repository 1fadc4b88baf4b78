"""Compaction in the model's own class: its code with smaller tensors, in layers that know their new sizes."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] the common base of all BatchNorms
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage] likewise

from fprune.equality import named_modules, named_tensors
from fprune.errors import StructureError
from fprune.intake import copied
from fprune.model import Model
from fprune.structure.attention import PrunedMultiheadAttention
from fprune.structure.compact_graph import write_forward
from fprune.structure.expressions import Attribute
from fprune.structure.ghost import GhostGroupNorm, GhostLayerNorm, GhostRMSNorm
from fprune.structure.graph import Graph, Node
from fprune.structure.hooks import carried
from fprune.structure.provenance import write
from fprune.structure.recurrent import GATES
from fprune.structure.solve import solve
from fprune.tree import Flat

Fix: TypeAlias = Callable[[Any, Node | None, Graph], None]


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
    while True:
        own = [node for node in new.nodes if not _within(node.module, apart)]
        coded = [node for node in own if not _fitted(paths[node.module], node)]
        solution = solve(old, new, coded)
        try:
            if solution.failed:
                raise Unfit(solution.failed[0], {node.module for node in solution.failed})
            inner = attrs.evolve(new, attributes=solve(old, new, new.nodes).attributes) if apart else new
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


class Unfit(Exception):
    """Modules that cannot keep their code; carries a call that shows it."""

    def __init__(self, node: object, paths: set[str]) -> None:
        """The call and the modules."""
        super().__init__(str(node))
        self.node = node
        self.paths = paths


def _rebuilt(model: Model, graph: Graph, inner: Graph, tensors: Mapping[str, Tensor], apart: set[str]) -> Model:
    """The model with `apart` replaced: `graph` has the attributes that code takes, `inner` those that graphs take."""
    skeleton = model.skeleton
    twins = named_tensors(skeleton)
    new = {name: _twin(twins[name], tensor) for name, tensor in tensors.items() if name in twins}
    net = copied(skeleton, {id(twins[name]): twin for name, twin in new.items()})
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
            if not _within(path, apart):
                raise
    for where, size in graph.attributes.items():
        if not _within(where.path, apart):
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


def _within(path: str, apart: Collection[str]) -> bool:
    """Whether a module is one of some others, or inside one."""
    return any(path == other or path.startswith(f"{other}.") for other in apart)


def _outermost(paths: set[str]) -> set[str]:
    return {path for path in paths if not _within(path, paths - {path})}


def _user(graph: Graph, name: str) -> str:
    """The module that makes the call which reads a tensor."""
    index = next(index for index, found in graph.tensors.items() if found == name)
    return next(node.module for node in graph.nodes if index in node.inputs)


def _twin(old: Tensor, new: Tensor) -> Tensor:
    if old.shape == new.shape:
        return old
    twin = torch.empty_like(new, device="meta")
    return nn.Parameter(twin, old.requires_grad) if isinstance(old, nn.Parameter) else twin


def fit(net: nn.Module, path: str, module: nn.Module, calls: list[Node], graph: Graph) -> None:
    """Bring a layer's own attributes into line with its tensors and with what it is to compute."""
    for kinds, names, fix in _FIXES:
        if isinstance(module, kinds):
            mine = [node for node in calls if names is None or node.name in names]
            sizes = {_describes(node) for node in mine}
            if len(sizes) > 1 and names is not None:
                raise Unfit(f"{path}: called several times with different sizes", {path.rpartition(".")[0]})
            node = mine[0] if mine else None
            other = _attention(module, mine, graph) if names is None else _ghost(module, node)
            if other is None:
                fix(module, node, graph)
            else:
                net.set_submodule(path, carried(module, other.train(module.training)))
            return


def _describes(node: Node) -> tuple[Any, ...]:
    keys = ("groups", "num_groups", "width", "sizes", "downscale_factor")
    return tuple(str(node.bound.get(key)) for key in keys)


def _ghost(module: nn.Module, node: Node | None) -> nn.Module | None:
    if node is None or "width" not in node.bound or isinstance(module, GhostLayerNorm):
        return None
    if type(module) not in _GHOSTS:
        raise Unfit(node, {node.module})
    norm: Any = module  # only norms have a width
    return _GHOSTS[type(module)](norm.weight, getattr(norm, "bias", None), node.bound["width"], norm.eps)


def _attention(module: nn.MultiheadAttention, calls: list[Node], graph: Graph) -> nn.Module | None:
    """A layer with heads of their own width, if its projections are not torch's any more."""
    width = module.out_proj.weight.shape[1]
    products = [node for node in calls if node.name in _PRODUCTS]
    if not products or tuple(module.out_proj.weight.shape) == (module.embed_dim, module.num_heads * module.head_dim):
        return None
    head_dim = graph.shapes[products[0].inputs[1 if products[0].name == "baddbmm" else 0]][-1]
    scale = getattr(module, "scale", module.head_dim**-0.5)
    if width % head_dim:
        raise Unfit(products[0], {products[0].module})
    try:
        return PrunedMultiheadAttention.like(module, head_dim, scale)
    except StructureError as error:
        raise Unfit(error, {products[0].module}) from error


def _conv(module: _ConvNd, node: Node | None, graph: Graph) -> None:
    if node is not None:
        module.groups = node.bound["groups"]
    a, b = module.weight.shape[:2]
    if isinstance(module, _ConvTransposeNd):
        module.in_channels, module.out_channels = a, b * module.groups
    else:
        module.in_channels, module.out_channels = b * module.groups, a


def _linear(module: nn.Linear, node: Node | None, graph: Graph) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: _NormBase, node: Node | None, graph: Graph) -> None:
    if node is not None:
        module.num_features = graph.shapes[node.bound["input"].index][1]


def _layer_norm(module: nn.LayerNorm | nn.RMSNorm, node: Node | None, graph: Graph) -> None:
    if module.weight is not None:  # pyright: ignore[reportUnnecessaryComparison] None without affine
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: nn.GroupNorm, node: Node | None, graph: Graph) -> None:
    if node is not None:
        module.num_groups = node.bound["num_groups"]
    if module.weight is not None:  # pyright: ignore[reportUnnecessaryComparison] None without affine
        module.num_channels = len(module.weight)


def _embedding(module: nn.Embedding, node: Node | None, graph: Graph) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: nn.PReLU, node: Node | None, graph: Graph) -> None:
    module.num_parameters = len(module.weight)


def _shuffle(module: nn.ChannelShuffle, node: Node | None, graph: Graph) -> None:
    if node is not None:
        module.groups = node.bound["groups"]


def _unflatten(module: nn.Unflatten, node: Node | None, graph: Graph) -> None:
    if node is not None:
        module.unflattened_size = tuple(node.bound["sizes"])


def _recurrent(module: nn.RNNBase, node: Node | None, graph: Graph) -> None:
    rows, module.input_size = module.get_parameter("weight_ih_l0").shape
    module.hidden_size = rows // GATES[module.mode.lower()]
    if module.proj_size:
        module.proj_size = module.get_parameter("weight_hr_l0").shape[0]


def _recurrent_cell(module: nn.RNNCellBase, node: Node | None, graph: Graph) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _nothing(module: nn.Module, node: Node | None, graph: Graph) -> None:
    """A layer that has no sizes of its own, or keeps those it has."""


_GHOSTS: Mapping[type[nn.Module], type[GhostLayerNorm]] = {
    nn.LayerNorm: GhostLayerNorm,
    nn.GroupNorm: GhostGroupNorm,
    nn.RMSNorm: GhostRMSNorm,
}
_CONVS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_FIXES: tuple[tuple[type | tuple[type, ...], tuple[str, ...] | None, Fix], ...] = (
    (_ConvNd, _CONVS, _conv),
    (nn.Linear, ("linear",), _linear),
    (_NormBase, ("batch_norm", "instance_norm"), _batch_norm),
    (GhostLayerNorm, ("layer_norm", "group_norm", "rms_norm"), _nothing),
    ((nn.LayerNorm, nn.RMSNorm), ("layer_norm", "rms_norm"), _layer_norm),
    (nn.GroupNorm, ("group_norm",), _group_norm),
    (nn.Embedding, ("embedding",), _embedding),
    (nn.PReLU, ("prelu",), _prelu),
    (nn.ChannelShuffle, ("channel_shuffle",), _shuffle),
    (nn.Unflatten, ("unflatten",), _unflatten),
    (nn.MultiheadAttention, None, _nothing),
    (nn.RNNBase, ("zeros", *GATES), _recurrent),
    (nn.RNNCellBase, ("zeros", *(f"{kind}_cell" for kind in GATES)), _recurrent_cell),
)
_PRODUCTS = frozenset({"scaled_dot_product_attention", "baddbmm", "bmm", "matmul"})
"""Which attributes of torch's own layers follow from their tensors or from the calls they make (None: any call)."""


def _fitted(module: nn.Module, node: Node) -> bool:
    """Whether a call is made by a layer that takes its sizes from its tensors."""
    return any(isinstance(module, kinds) and (names is None or node.name in names) for kinds, names, _ in _FIXES)
