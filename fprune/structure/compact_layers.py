"""Layers of torch that know their sizes: brought into line with their tensors after surgery."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] the common base of all BatchNorms
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage] likewise

from fprune.errors import StructureError
from fprune.structure.attention import PrunedMultiheadAttention
from fprune.structure.ghost import GhostGroupNorm, GhostLayerNorm, GhostRMSNorm
from fprune.structure.graph import Graph, Node
from fprune.structure.hooks import carried
from fprune.structure.recurrent import GATES

Fix: TypeAlias = Callable[[Any, Node | None, Graph], None]


class Unfit(Exception):
    """Modules that cannot keep their code; carries a call that shows it."""

    def __init__(self, node: object, paths: set[str]) -> None:
        """The call and the modules."""
        super().__init__(str(node))
        self.node = node
        self.paths = paths


def fit(net: nn.Module, path: str, module: nn.Module, calls: list[Node], graph: Graph) -> None:
    """Bring a layer's own attributes into line with its tensors and with what it is to compute."""
    for kinds, names, fix in _FIXES:
        if isinstance(module, kinds):
            mine = [node for node in calls if names is None or node.name in names]
            sizes = {_describes(node) for node in mine}
            if len(sizes) > 1 and names is not None:
                raise Unfit(f"{path}: called several times with different sizes", {path.rpartition(".")[0]})
            node = mine[0] if mine else None
            attends = isinstance(module, nn.MultiheadAttention)
            other = _attention(module, mine, graph) if attends else _ghost(module, node)
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
    scale = module.scale if isinstance(module, PrunedMultiheadAttention) else cast("int", module.head_dim) ** -0.5
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
_PRODUCTS = frozenset({"scaled_dot_product_attention", "baddbmm", "bmm", "matmul"})
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
"""Which attributes of torch's own layers follow from their tensors or from the calls they make (None: any call)."""


def fitted(module: nn.Module, node: Node) -> bool:
    """Whether a call is made by a layer that takes its sizes from its tensors.

    Args:
        module: the layer.
        node: the call.
    """
    return any(isinstance(module, kinds) and (names is None or node.name in names) for kinds, names, _ in _FIXES)
