"""Trees shaped like a model's parameters: optimizer states, moving averages, gradients; which leaf goes with which."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import optree
from torch import Tensor

from fprune.errors import ModelError
from fprune.tree import NAMESPACE, Flat

Change: TypeAlias = Callable[[str, Tensor, bool], Tensor]
"""What becomes of a tensor: the name of its parameter, the tensor, whether it is filed directly under that name."""

_PREFIXES = ("module.", "_orig_mod.", "model.module.")
_HINT = "pass names=[name for name, _ in net.named_parameters()], the order in which the tree has them"


def mapped(tree: Any, change: Change, known: Mapping[str, str], names: Iterable[str] | None) -> Any:
    """Change every tensor of a tree that belongs to a parameter.

    A tensor belongs to the parameter whose name is a key on the way to it; `"module."` of a wrapper in front of a name
    is looked through, and nested dicts may spell a name key by key. With `names`, a place in a list or an integer key
    stands for the parameter of that number; an optimizer's state that has `param_names` needs no others.

    Args:
        tree: nested dicts, lists, tuples and records; a mapping that is none of these becomes a `Flat`.
        change: what becomes of a tensor.
        known: name of a parameter or buffer, tied ones too -> canonical name.
        names: names of parameters in the order of the tree.

    Raises:
        ModelError: tensors go by number and there are no names for them.
    """
    if isinstance(tree, Mapping) and not isinstance(tree, (dict, Flat)):
        tree = Flat(cast("Mapping[str, Any]", tree))
    numbered = _numbered(tree, names)
    flat: Any = optree.tree_flatten_with_path(cast("Any", tree), namespace=NAMESPACE)
    paths, leaves, spec = cast("tuple[list[tuple[Any, ...]], list[Any], Any]", flat)

    def changed(path: tuple[Any, ...], leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        keys = [key for key in path if key != "_data"]
        name, depth = _named(keys, known) or _counted(keys, numbered, known) or ("", 0)
        return change(name, leaf, depth == len(keys)) if name else leaf

    return optree.tree_unflatten(spec, [changed(path, leaf) for path, leaf in zip(paths, leaves, strict=True)])


def _named(keys: Sequence[Any], known: Mapping[str, str]) -> tuple[str, int] | None:
    """The longest run of keys that spells a name, and where it ends."""
    words = [_plain(key, known) if isinstance(key, str) else None for key in keys]
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            if None not in run and (name := known.get(".".join(cast("list[str]", run)))) is not None:
                return name, start + length
    return None


def _plain(key: str, known: Collection[str]) -> str:
    """A name without what wrappers put in front of it."""
    for prefix in _PREFIXES:
        if key not in known and key.startswith(prefix):
            return _plain(key.removeprefix(prefix), known)
    return key


def _counted(keys: Sequence[Any], numbered: Mapping[int, str], known: Mapping[str, str]) -> tuple[str, int] | None:
    for depth, key in enumerate(keys, 1):
        if isinstance(key, int) and key in numbered:
            return known[_plain(numbered[key], known)], depth
    return None


def _numbered(tree: Any, names: Iterable[str] | None) -> dict[int, str]:
    """Number -> name of the parameters of a tree that goes by number."""
    if names is not None:
        return dict(enumerate(names))
    if is_optimizer_state(tree):
        groups: list[dict[str, Any]] = tree["param_groups"]
        found = {i: name for group in groups for i, name in zip(group["params"], group.get("param_names", ()))}  # noqa: B905  without names there are none
        if not all(key in found or isinstance(key, str) for key in tree["state"]):
            raise ModelError("an optimizer's state goes by the number of a parameter", hint=_HINT)
        return found
    if isinstance(tree, (list, tuple)) and any(isinstance(x, Tensor) for x in cast("Sequence[Any]", tree)):
        raise ModelError(f"a {type(cast('object', tree)).__name__} of tensors goes by number", hint=_HINT)
    return {}


def cloned(tree: Any) -> Any:
    """A tree with copies of its tensors."""

    def clone(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, Tensor) else leaf

    return optree.tree_map(clone, tree, namespace=NAMESPACE)


def is_optimizer_state(tree: Any) -> bool:
    """Whether a tree is what `optimizer.state_dict()` gives."""
    return isinstance(tree, dict) and "state" in tree and "param_groups" in tree


def renumbered(state: Mapping[str, Any], before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """An optimizer's state for other parameters, in another order: by name, those that are new in the last group."""
    number, of = {name: i for i, name in enumerate(after)}, dict(enumerate(before))
    groups = [dict(group) for group in state["param_groups"]]
    kept = [[of[i] for i in group["params"] if of[i] in number] for group in groups]
    kept[-1] += [name for name in after if name not in set(before)]
    for group, names in zip(groups, kept, strict=True):
        mine = sorted(names, key=number.__getitem__)  # torch matches the parameters of a group in order
        group.update(params=[number[name] for name in mine])
        if "param_names" in group:
            group.update(param_names=mine)
    entries = {number[of[i]]: entry for i, entry in state["state"].items() if of[i] in number}
    return {**state, "state": entries, "param_groups": groups}
