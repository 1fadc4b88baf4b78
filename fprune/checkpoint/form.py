"""How the code of a compact model differs from the original's, as plain data.

A skeleton is code, and no file holds code. What surgery leaves in it is a smaller thing: other sizes in attributes, a
biases more, a few layers replaced by others of this library. All of it is found by comparing the two, attribute by
attribute and path by path, without a list of layers. Where surgery had to generate code, only that is noted: whoever
loads such a model repeats the surgery.
"""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn

from fprune.equality import alike, is_record, named_modules, named_tensors, settings
from fprune.errors import CheckpointError
from fprune.hashing import digest

__all__ = ["LAYERS", "NUMBERS", "SEQUENCES", "described", "modes"]

LAYERS: Mapping[str, tuple[str, ...]] = {
    "PrunedMultiheadAttention": (
        "embed_dim",
        "num_heads",
        "head_dim",
        "scale",
        "dropout",
        "kdim",
        "vdim",
        "batch_first",
    ),
    "GhostLayerNorm": ("width", "eps"),
    "GhostGroupNorm": ("width", "eps"),
    "GhostRMSNorm": ("width", "eps"),
}
"""The layers that surgery puts in the place of others, and the numbers that make one."""

NUMBERS = (bool, int, float)
"""The types of attributes that a file may change, alone or in one of `SEQUENCES`."""

SEQUENCES = (tuple, list, torch.Size)


def described(origin: nn.Module, skeleton: nn.Module) -> dict[str, Any]:
    """Say what turns one skeleton into another, in values that JSON can hold.

    Examples:
        >>> import copy
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).to("meta")
        >>> smaller = nn.Sequential(nn.Linear(4, 2), nn.ReLU()).to("meta").eval()
        >>> form = described(net, smaller)
        >>> form["kind"], form["modules"], form["training"]
        ('module', {'0': {'attributes': {'out_features': 2}}}, False)
        >>> described(net, net)["kind"]
        'same'

    Args:
        origin: the code of the model before every surgery.
        skeleton: the code of the model now.

    Returns:
        `kind` is `"same"`, `"module"` when the difference is data, or `"traced"` when there is generated code.
        For data, `modules` has attributes that changed and layers that took the place of others, `added` the parameters
        that are new; for generated code there are the `style` of the surgery, the modules that were `replaced`, and
        digests of their `code`. The modes of the modules and which parameters are frozen are told in any case.

    Raises:
        CheckpointError: they differ in something that is not data, which surgery never causes.
    """
    style, replaced, texts = generated(origin, skeleton)
    if texts:
        code = {path: digest(text) for path, text in texts.items()}
        return {"kind": "traced", "style": style, "replaced": replaced, "code": code, **modes(skeleton)}
    pairs = _pairs(origin, skeleton)
    modules = {path: change for path, old, new in pairs if (change := _change(path, old, new))}
    added = sorted(named_tensors(skeleton).keys() - named_tensors(origin).keys())
    if not modules and not added and _shapes(origin) == _shapes(skeleton):
        return {"kind": "same", **modes(skeleton)}
    return {"kind": "module", "modules": modules, "added": added, **modes(skeleton)}


def modes(skeleton: nn.Module) -> dict[str, Any]:
    """Which modules train, and which parameters do not.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> net[1].eval() and modes(net)
        {'training': True, 'apart': ['1'], 'frozen': []}

    Args:
        skeleton: the code of a model.

    Returns:
        `training`, the mode of the root module; `apart`, the modules in the other mode; `frozen`, the parameters that
        do not require gradients.
    """
    apart = [path for path, module in named_modules(skeleton) if module.training != skeleton.training]
    frozen = [name for name, param in skeleton.named_parameters() if not param.requires_grad]
    return {"training": skeleton.training, "apart": apart, "frozen": frozen}


def generated(origin: nn.Module, skeleton: nn.Module) -> tuple[Literal["module", "graph"], list[str], dict[str, str]]:
    """How surgery wrote code anew: its style, the modules it replaced, and the code of each.

    Examples:
        >>> generated(nn.Linear(2, 2), nn.Linear(2, 1))
        ('module', [], {})

    Args:
        origin: the code of the model before every surgery.
        skeleton: the code of the model now.
    """
    code = dict(_generated(origin, skeleton))
    if code and isinstance(skeleton, fx.GraphModule):
        return "graph", [], code
    return "module", sorted(code), code


def _generated(origin: nn.Module, skeleton: nn.Module) -> Iterator[tuple[str, str]]:
    """The outermost modules whose code was generated since, and that code."""
    before = dict(named_modules(origin))
    for path, module in named_modules(skeleton):
        old, kind = before.get(path), type(module)
        if isinstance(module, fx.GraphModule) and not hasattr(kind, "rewrites"):
            if not isinstance(old, fx.GraphModule) or old.code != module.code:
                yield path, module.code
                return  # a graph is a whole model
        elif hasattr(kind, "rewrites") and kind is not type(old):
            yield path, cast("Any", kind).generated_code


def _pairs(origin: nn.Module, skeleton: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    old, new = named_modules(origin), named_modules(skeleton)
    if [path for path, _ in old] != [path for path, _ in new]:
        other = {path for path, _ in old} ^ {path for path, _ in new}
        raise _unknown(min(other, default=""), "the model has other modules than it began with")
    return [(path, a, b) for (path, a), (_, b) in zip(old, new, strict=True)]


def _change(path: str, old: nn.Module, new: nn.Module) -> dict[str, Any]:
    """What turns one module into another, its children and tensors aside; nothing when nothing has to."""
    name = type(new).__name__
    both_graphs = isinstance(old, fx.GraphModule) and isinstance(new, fx.GraphModule)
    if type(old) is not type(new) and not both_graphs:
        if name not in LAYERS or type(new).__module__.partition(".")[0] != "fprune":
            raise _unknown(path, f"it was a {type(old).__name__} and is a {name}")
        return {"class": name, "options": {option: getattr(new, option) for option in LAYERS[name]}}
    before, after = settings(old), settings(new)
    if before.keys() != after.keys():
        other = min(before.keys() ^ after.keys())
        raise _unknown(path, f"the attribute {other!r} is {'new' if other in after else 'gone'}")
    attributes: dict[str, Any] = {}
    for key in before.keys() - {"training", *(() if not both_graphs else ("_graph", "_code"))}:
        found = _difference(before[key], after[key], frozenset())
        if found is _OPAQUE:
            raise _unknown(path, f"the attribute {key!r} ({type(after[key]).__name__}) changed")
        if found is not None:
            attributes[key] = found
    return {"attributes": dict(sorted(attributes.items()))} if attributes else {}


_OPAQUE = object()


def _difference(old: Any, new: Any, around: frozenset[int]) -> Any:
    """What turns a value into another: None when nothing has to, `_OPAQUE` when it is more than numbers."""
    if old is new or id(new) in around:
        return None
    if isinstance(old, Tensor) and isinstance(new, Tensor) and old.is_meta and new.is_meta:
        return None  # twins of parameters and buffers, which are told by name
    if type(old) is not type(new):
        return _OPAQUE
    if type(new) in NUMBERS:
        return None if alike(old, new) else new if isfinite(new) else _OPAQUE
    if type(new) in SEQUENCES:
        return _sequence(list(old), list(cast("list[Any]", new)), around)
    if isinstance(new, Mapping):
        here, there = cast("Mapping[Any, Any]", old), cast("Mapping[Any, Any]", new)
        alone = here.keys() == there.keys() and all(_difference(here[k], there[k], around) is None for k in there)
        return None if alone else _OPAQUE
    if is_record(new):
        return _fields(vars(old), vars(new), around | {id(new)})
    return None if alike(old, new) else _OPAQUE


def _sequence(old: list[Any], new: list[Any], around: frozenset[int]) -> Any:
    if len(old) != len(new):
        return _OPAQUE
    if all(_difference(a, b, around) is None for a, b in zip(old, new, strict=True)):
        return None
    numbers = all(type(a) is type(b) and type(b) in NUMBERS and isfinite(b) for a, b in zip(old, new, strict=True))
    return new if numbers else _OPAQUE


def _fields(old: Mapping[str, Any], new: Mapping[str, Any], around: frozenset[int]) -> Any:
    if old.keys() != new.keys():
        return _OPAQUE
    found = {key: change for key in new if (change := _difference(old[key], new[key], around)) is not None}
    return _OPAQUE if _OPAQUE in found.values() else found or None


def _shapes(skeleton: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, *tensor.shape) for name, tensor in named_tensors(skeleton).items()}


def _unknown(path: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path or 'the root module'}: {found}, which no file can keep without keeping code",
        hint="a stage that changes the code of a model cannot be stored; do it before the run, or after",
    )
