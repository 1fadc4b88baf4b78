"""Which layers a rule selects, and what is refused about that: names that do not exist, rules without effect."""

from collections.abc import Sequence

from fprune.errors import ConfigError, close_matches
from fprune.layers import Layer
from fprune.rule import Rule
from fprune.tree import Flat

_REMOVE = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"

__all__ = ["few", "matched", "quoted", "refuse_dead"]


def matched(index: int, rule: Rule, layers: Sequence[Layer]) -> frozenset[int]:
    """Return the positions of the layers a rule selects."""
    if not rule.allow_empty:
        _check_selectors(index, rule, layers)
    hits = frozenset(n for n, layer in enumerate(layers) if _selects(rule, layer))
    if not hits and not rule.allow_empty:
        types = sorted({layer.type for layer in layers})
        by_name = [layer for layer in layers if rule.op_partial_names and _by_name(rule, layer)]
        hint = f"types in this model: {quoted(types)}; allow_empty=True accepts an empty rule{_computed(layers)}"
        if by_name and not rule.op_types:
            found = sorted({layer.type for layer in by_name})
            hint = f"substrings reach the default types only; add op_types={found} to mean these"
        raise ConfigError(f"rule {index}: no layer matches {rule!r}", hint=hint)
    if isinstance(rule.max_sparsity_per_layer, Flat):
        known = [name for n in sorted(hits) for name in layers[n].names]
        for name in rule.max_sparsity_per_layer:
            if name not in known and not rule.allow_empty:
                found = f"rule {index}: max_sparsity_per_layer names {name!r}, which the rule does not select"
                selected = [layers[n].name for n in sorted(hits)]
                raise ConfigError(found, hint=close_matches(name, selected) or few("it selects", selected))
    return hits


def _by_name(rule: Rule, layer: Layer) -> bool:
    if not rule.op_names and not rule.op_partial_names:
        return True
    return _exactly(rule, layer) or any(
        part in name for part in rule.op_partial_names for name in (layer.name, *layer.aliases)
    )


def _exactly(rule: Rule, layer: Layer) -> bool:
    return any(name in layer.names for name in rule.op_names)


def _selects(rule: Rule, layer: Layer) -> bool:
    """Whether types and names of a rule select the layer."""
    if rule.op_types:
        return (layer.type in rule.op_types or ("default" in rule.op_types and layer.default)) and _by_name(rule, layer)
    any_type = layer.default or rule.exclude or _exactly(rule, layer)
    return any_type and _by_name(rule, layer)


def _check_selectors(index: int, rule: Rule, layers: Sequence[Layer]) -> None:
    """Refuse each name, substring and type that matches nothing by itself."""
    types = sorted({layer.type for layer in layers}) if rule.op_types else []
    for kind in rule.op_types:
        if kind not in types and not (kind == "default" and any(layer.default for layer in layers)):
            hint = f"types in this model: {quoted(types)}. {close_matches(kind, types)}".strip() + _computed(layers)
            raise ConfigError(f"rule {index}: no layer of type {kind!r}", hint=hint)
    for name in rule.op_names:
        if not any(name in layer.names for layer in layers):
            raise ConfigError(f"rule {index}: no layer {name!r}", hint=_name_hint(name, layers))
    for part in rule.op_partial_names:
        if not any(part in name for layer in layers for name in (layer.name, *layer.aliases)):
            names = [layer.name for layer in layers]
            hint = close_matches(part, names) or few("layers", names)
            raise ConfigError(f"rule {index}: no layer name contains {part!r}", hint=hint)


def _computed(layers: Sequence[Layer]) -> str:
    """What else to know about a rule that finds nothing, where weights are out of its reach."""
    found = any(".parametrizations." in layer.weight for layer in layers)
    return f"; weights computed by a parametrization are no layers: call {_REMOVE} first" if found else ""


def _name_hint(name: str, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    inside = [other for other in names if other.startswith(f"{name}.")]
    owner = next((layer.name for layer in layers if layer.bias == name), None)
    if owner is not None:
        return f"a bias goes with its layer; name {owner!r}"
    if any(other.startswith(f"{name}.parametrizations.") for other in inside):
        return f"the weight of {name!r} is computed by a parametrization; call {_REMOVE} first"
    if inside:
        return f"{name!r} holds {len(inside)} layers; op_partial_names=['{name}.'] selects them"
    if "*" in name:
        return "op_names are exact; op_partial_names selects by a substring"
    known = list(dict.fromkeys(other for layer in layers for other in layer.names))
    return close_matches(name, names) or close_matches(name, known) or few("layers", names)


def refuse_dead(
    index: int, hits: frozenset[int], rules: Sequence[Rule], layers: Sequence[Layer], winners: Sequence[int | None]
) -> None:
    """Refuse a rule that later rules override on every layer it selects."""
    later = sorted({winner for n in hits if (winner := winners[n]) is not None})
    if not hits or index in later:
        return
    names = quoted([layers[n].name for n in sorted(hits)])
    shown = "; ".join(f"rule {i} is {rules[i]!r}" for i in (index, *later))
    hint = f"later rules win: put the general rule first and its exceptions after it, or delete rule {index}"
    by = " and ".join(f"rule {i}" for i in later) + (" override" if len(later) > 1 else " overrides")
    raise ConfigError(f"rule {index} has no effect: {by} it on {names}. {shown}", hint=hint)


def quoted(names: Sequence[str], limit: int = 6) -> str:
    """Names in quotes, the first of them when there are many."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + rest


def few(what: str, names: Sequence[str]) -> str:
    """Some of what there is, in words."""
    return f"{what}: {quoted(names)}"
