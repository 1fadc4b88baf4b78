"""Compaction in the model's own class: its code with smaller tensors, in layers that know their new sizes."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] the common base of all BatchNorms
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage] likewise

from fprune.equality import named_modules, named_tensors
from fprune.errors import StructureError
from fprune.intake import copied
from fprune.model import Model
from fprune.structure.arguments import listed
from fprune.structure.ghost import GhostGroupNorm, GhostLayerNorm, GhostRMSNorm
from fprune.structure.graph import Graph, Node
from fprune.structure.provenance import attributes, has_literal, put, solved
from fprune.tree import Flat

Fix: TypeAlias = Callable[[Any, Node | None, Graph], None]


def in_class(model: Model, graph: Graph, tensors: Mapping[str, Tensor], *, literals: bool = False) -> Model:
    """The model with other tensors, in its own class.

    Args:
        model: the model before surgery.
        graph: the program after surgery, for what layers keep besides their tensors.
        tensors: every parameter and buffer after surgery; a bias that a layer lacked may be among them.
        literals: whether to take plain numbers in the expressions behind sizes for numbers written in the code; else
            for numbers read from a tensor's shape, which adapt by themselves.

    Raises:
        StructureError: the class cannot hold the result, such as a module that would need two sizes at once.
    """
    skeleton = model.skeleton
    twins = named_tensors(skeleton)
    new = {name: _twin(twins[name], tensor) for name, tensor in tensors.items() if name in twins}
    memo = {id(twins[name]): twin for name, twin in new.items()}
    net = copied(skeleton, memo)
    added = {name: tensor for name, tensor in tensors.items() if name not in twins}
    modules = dict(named_modules(net))
    for name, tensor in added.items():
        owner, _, leaf = name.rpartition(".")
        if owner not in modules or getattr(modules[owner], leaf, 0) is not None:
            raise StructureError(f"{name}: the constants of a shared or computed weight have no place in the class")
        modules[owner].register_parameter(leaf, nn.Parameter(torch.empty_like(tensor, device="meta")))
    calls: dict[str, list[Node]] = {}
    for node in graph.nodes:
        calls.setdefault(node.module, []).append(node)
    for path, module in modules.items():
        fit(net, path, module, calls.get(path, []), graph)
    _patch(modules, graph, literals)
    return Model(
        net,
        Flat({name: tensors[name] for name in (*model.params, *added)}),
        Flat({name: tensors[name] for name in model.buffers}),
        model.training,
    )


def _patch(modules: Mapping[str, nn.Module], graph: Graph, literals: bool) -> None:
    """Give the integer attributes that sizes were read from the values that make the new sizes."""
    equations: list[tuple[Any, int]] = []
    for node in graph.nodes:
        for name, expressions in node.sources.items():
            sizes = listed(node.bound.get(name))
            if len(sizes) == len(expressions):
                equations += [
                    (e, n) for e, n in zip(expressions, sizes, strict=True) if e is not None and type(n) is int
                ]
    if literals and not any(has_literal(expression) for expression, _ in equations):
        raise StructureError("no size is computed from an attribute and a number")
    equations = [(e, n) for e, n in equations if literals or not has_literal(e)]
    wheres = {where for expression, _ in equations for where in attributes(expression)}
    old = {(path, key, at): _held(vars(modules[path])[key], at) for path, key, at in wheres}
    for (path, key, at), value in solved(equations, old).items():
        if value != old[path, key, at]:
            held = vars(modules[path])[key]
            put(
                modules[path], key, value if at < 0 else type(held)(value if i == at else n for i, n in enumerate(held))
            )


def _held(value: Any, at: int) -> int:
    return value if at < 0 else value[at]


def _twin(old: Tensor, new: Tensor) -> Tensor:
    if old.shape == new.shape:
        return old
    twin = torch.empty_like(new, device="meta")
    return nn.Parameter(twin, old.requires_grad) if isinstance(old, nn.Parameter) else twin


def fit(net: nn.Module, path: str, module: nn.Module, calls: list[Node], graph: Graph) -> None:
    """Bring a layer's own attributes into line with its tensors and with what it is to compute."""
    for kinds, names, fix in _FIXES:
        if isinstance(module, kinds):
            mine = [node for node in calls if node.name in names]
            sizes = {_describes(node) for node in mine}
            if len(sizes) > 1:
                raise StructureError(f"{path}: called several times with different sizes, one module cannot hold both")
            node = mine[0] if mine else None
            ghost = _ghost(module, node)
            if ghost is None:
                fix(module, node, graph)
            else:
                net.set_submodule(path, ghost.train(module.training))
            return


def _describes(node: Node) -> tuple[Any, ...]:
    keys = ("groups", "num_groups", "width", "sizes", "downscale_factor")
    return tuple(str(node.bound.get(key)) for key in keys)


def _ghost(module: nn.Module, node: Node | None) -> nn.Module | None:
    if node is None or "width" not in node.bound or isinstance(module, GhostLayerNorm):
        return None
    norm: Any = module  # only norms have a width
    return _GHOSTS[type(module)](norm.weight, getattr(norm, "bias", None), node.bound["width"], norm.eps)


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


def _nothing(module: nn.Module, node: Node | None, graph: Graph) -> None:
    """A ghost norm has no sizes of its own besides the original width."""


_GHOSTS: Mapping[type[nn.Module], type[GhostLayerNorm]] = {
    nn.LayerNorm: GhostLayerNorm,
    nn.GroupNorm: GhostGroupNorm,
    nn.RMSNorm: GhostRMSNorm,
}
_CONVS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_FIXES: tuple[tuple[type | tuple[type, ...], tuple[str, ...], Fix], ...] = (
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
)
"""Which attributes of torch's own layers follow from their tensors or from the call they make."""
