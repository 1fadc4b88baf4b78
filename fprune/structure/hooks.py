"""Hooks of modules across surgery: carried where a module takes another's place, listed where they are lost."""

from typing import Any

from torch import nn

from fprune.equality import named_modules

_KINDS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_SHOWN = tuple(kind for kind in _KINDS if not kind.endswith(("_with_kwargs", "_always_called")))


def carried(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give the hooks of a module to the one that takes its place."""
    for kind in _KINDS:
        getattr(new, kind).update(getattr(old, kind))
    return new


def lost_hooks(before: nn.Module, after: nn.Module) -> tuple[str, ...]:
    """Which hooks a model has no more: `"layer1: 1 forward hook"`."""
    there = dict(named_modules(after))
    out: list[str] = []
    for path, module in named_modules(before):
        for kind in _SHOWN:
            hooks: dict[int, Any] = getattr(module, kind)
            gone = hooks.keys() - getattr(there.get(path), kind, {}).keys()
            if gone:
                what = kind.strip("_").replace("_", " ").removesuffix("s")
                out.append(f"{path or 'the root module'}: {len(gone)} {what}{'s' if len(gone) > 1 else ''}")
    return tuple(out)
