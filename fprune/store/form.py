"""The code of a compact model, made from the original's and a description on file; nothing on file is code."""

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn

from fprune.checkpoint.entry import Entry
from fprune.checkpoint.form import LAYERS, NUMBERS, SEQUENCES
from fprune.equality import is_record, named_modules, named_tensors
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.model import Model
from fprune.skeleton import requiring_grad, resized
from fprune.store.surgery import regenerated
from fprune.structure import GhostGroupNorm, GhostLayerNorm, GhostRMSNorm, PrunedMultiheadAttention
from fprune.structure.hooks import carried

__all__ = ["rebuilt"]

Numbers = Mapping[str, Any]


def rebuilt(
    origin: Model, form: Entry, tensors: Mapping[str, Tensor], lineage: Lineage, example_inputs: Inputs | None
) -> nn.Module:
    """Make the code of a compact model from the original's.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> smaller = {"0.bias": torch.zeros(2), "0.weight": torch.zeros(2, 4)}
        >>> change = {"0": {"attributes": {"out_features": 2}}}
        >>> form = {"kind": "module", "modules": change, "added": [], "training": False, "apart": [], "frozen": []}
        >>> origin, entry = Model.from_module(net), Entry(form, "it-000000/manifest.json")
        >>> made = rebuilt(origin, entry, smaller, Lineage.identity(origin), None)
        >>> made[0], made.training
        (Linear(in_features=4, out_features=2, bias=True), False)

    Args:
        origin: the model before every surgery, in the code of the caller's own instance; its weights do not matter.
        form: what `described` said of the compact model.
        tensors: the parameters and buffers of the compact model; only names, shapes and dtypes matter.
        lineage: from the original to the compact model.
        example_inputs: what `forward` takes; needed where surgery had to generate code.

    Returns:
        The skeleton of the compact model. Nothing of `origin` is changed.

    Raises:
        CheckpointError: the description does not fit the model; names the module and the attribute.
    """
    kind = form["kind"].text("same", "module", "traced")
    if kind == "traced":
        net = regenerated(origin, form, tensors, lineage, example_inputs)
    else:
        net = form.made(_changed, origin.skeleton, form, tensors)
    _check_tensors(form, named_tensors(net), tensors)
    return _in_modes(net, form)


def _changed(skeleton: nn.Module, form: Entry, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the skeleton with the sizes, the layers and the biases that the description names."""
    changes = dict(form["modules"].items()) if form["kind"].text() == "module" else {}
    added = form["added"].each(Entry.text) if changes or form["kind"].text() == "module" else ()
    known = named_tensors(skeleton)
    net = resized(skeleton, {name: tensor for name, tensor in tensors.items() if name in known})
    for path, entry in changes.items():
        if path not in dict(named_modules(net)):
            entry.refuse("the model has no such module")
        if "class" in cast("Mapping[str, object]", entry.value):
            _replace(net, path, entry.only("class", "options"))
        else:
            here, there = net.get_submodule(path), skeleton.get_submodule(path)
            _set_attributes(here, there, entry.only("attributes")["attributes"])
    for name in added:
        owner, _, leaf = name.rpartition(".")
        modules = dict(named_modules(net))
        if owner not in modules or name not in tensors or vars(modules[owner])["_parameters"].get(leaf, 0) is not None:
            form["added"].refuse(f"{name!r} is no parameter that a layer of this model lacks")
        modules[owner].register_parameter(leaf, nn.Parameter(torch.empty_like(tensors[name], device="meta")))
    return net


# --- attributes -------------------------------------------------------------------------------------------------------


def _set_attributes(module: nn.Module, original: nn.Module, entry: Entry) -> None:
    for key, value in entry.items():
        if key not in vars(module):
            value.refuse(f"{type(module).__name__} has no such attribute")
        vars(module)[key] = _written(vars(module)[key], vars(original)[key], value)


def _written(present: Any, original: Any, entry: Entry) -> Any:
    """The value of an attribute after the change on file: numbers in the place of numbers, and nothing else."""
    kind = cast(Any, type(present))
    if kind in NUMBERS:
        return _number(entry, kind)
    if kind in SEQUENCES:
        kinds: list[type] = [type(number) for number in cast("list[Any]", present)]
        items = entry.each(_itself)
        if len(items) != len(kinds) or not {*kinds} <= {*NUMBERS}:
            entry.refuse(f"expected what can stand for {present!r}")
        return cast(Any, kind)(_number(item, each) for item, each in zip(items, kinds, strict=True))
    if not is_record(present) or present is original:
        entry.refuse(f"the attribute is a {kind.__name__}, and only numbers are read from a file")
    fields = cast("dict[str, Any]", vars(present))
    for key, value in entry.items():
        if key not in fields:
            value.refuse(f"{kind.__name__} has no such field")
        fields[key] = _written(fields[key], vars(original)[key], value)
    return present


def _itself(entry: Entry) -> Entry:
    return entry


def _number(entry: Entry, *kinds: type) -> Any:
    """A finite number of one of the given types, or None if `None` is among them."""
    value = entry.value
    if type(value) not in kinds or (isinstance(value, float) and not isfinite(value)):
        entry.refuse(f"expected {' or '.join(kind.__name__ for kind in kinds)}, got {type(value).__name__} {value!r}")
    return value


# --- layers -----------------------------------------------------------------------------------------------------------


def _replace(net: nn.Module, path: str, entry: Entry) -> None:
    """Put a layer of this library in the place of the one it stood for, with that one's parameters and children."""
    name = entry["class"].text(*_MAKERS)
    options = entry["options"].only(*LAYERS[name])
    given = {key: _number(options[key], *_KINDS[key]) for key in LAYERS[name]}
    old = net.get_submodule(path)
    if not path or not isinstance(old, _STANDS_FOR[name]):
        entry.refuse(f"no {name} can stand for a {type(old).__name__}")
    with torch.device("meta"):
        new = _MAKERS[name](old, given)
    for key, param in old.named_parameters(recurse=False):
        new.register_parameter(key, param)
    for key, child in old.named_children():
        new.add_module(key, child)
    net.set_submodule(path, carried(old, new))


def _attention(old: nn.Module, options: Numbers) -> nn.Module:
    bias = vars(old)["_parameters"].get("in_proj_bias") is not None
    return PrunedMultiheadAttention(**options, bias=bias)


def _ghost(kind: type[GhostLayerNorm], old: nn.Module, options: Numbers) -> nn.Module:
    return kind(None, None, **options)


_MAKERS: Mapping[str, Callable[[nn.Module, Numbers], nn.Module]] = {
    "PrunedMultiheadAttention": _attention,
    "GhostLayerNorm": partial(_ghost, GhostLayerNorm),
    "GhostGroupNorm": partial(_ghost, GhostGroupNorm),
    "GhostRMSNorm": partial(_ghost, GhostRMSNorm),
}
_STANDS_FOR: Mapping[str, type[nn.Module]] = {
    "PrunedMultiheadAttention": nn.MultiheadAttention,
    "GhostLayerNorm": nn.LayerNorm,
    "GhostGroupNorm": nn.GroupNorm,
    "GhostRMSNorm": nn.RMSNorm,
}
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("embed_dim", "num_heads", "head_dim", "kdim", "vdim", "width"), (int,)),
    **dict.fromkeys(("scale", "dropout"), (float, int)),
    "batch_first": (bool,),
    "eps": (float, int, type(None)),
}


# --- what every kind shares -------------------------------------------------------------------------------------------


def _check_tensors(form: Entry, twins: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    there = {id(twins[name]) for name in tensors.keys() & twins.keys()}
    missing = [name for name, twin in twins.items() if id(twin) not in there]
    unknown = sorted(tensors.keys() - twins.keys())
    if missing or unknown:
        form.refuse(f"the model needs {missing[0]!r}" if missing else f"the model has no {unknown[0]!r}")
    for name, tensor in tensors.items():
        twin = twins[name]
        if (twin.shape, twin.dtype) != (tensor.shape, tensor.dtype):
            form.refuse(f"{name!r} is {tensor.dtype} {[*tensor.shape]}, and the model has {twin.dtype} {[*twin.shape]}")


def _in_modes(net: nn.Module, form: Entry) -> nn.Module:
    """The code with the modes on file; parameters are shared with the original's code, so their flags need a copy."""
    training, apart = form["training"].flag(), _names(form["apart"], dict(named_modules(net)))
    params = dict(net.named_parameters())
    frozen = _names(form["frozen"], params)
    flags = {name: name not in frozen for name, param in params.items() if param.requires_grad == (name in frozen)}
    net = form["frozen"].made(requiring_grad, net, flags) if flags else net
    for path, module in named_modules(net):
        module.training = training != (path in apart)
    return net


def _names(entry: Entry, known: Mapping[str, object]) -> frozenset[str]:
    names = frozenset(entry.each(Entry.text))
    if not names <= known.keys():
        entry.refuse(f"the model has no {min(names - known.keys())!r}")
    return names
