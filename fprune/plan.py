"""What a config means for one model: a row for each layer, with the rule that won."""

from collections.abc import Iterator, Mapping, Sequence

import attrs
from torch import Tensor, nn

from fprune.errors import ConfigError, ModelError, close_matches
from fprune.layers import Layer
from fprune.model import Model
from fprune.rule import Rule
from fprune.tables import html_table, text_table
from fprune.tree import Flat

__all__ = ["Plan", "Row", "resolve"]

_HEADERS = ("layer", "type", "shape", "rule", "removes", "note")


@attrs.frozen
class Row:
    """One layer and what the config says about it.

    Args:
        layer: the layer.
        rule: index of the rule that won, `None` when no rule selects the layer.
        sparsity: fraction to remove of this layer, in `[0, 1)`.
        total: fraction to remove of all layers of the same rule together, in `[0, 1)`.
        cap: upper bound of this layer's sparsity, in `(0, 1]`.
        excluded: the rule that won excludes the layer.
        named: the rule that won names the layer exactly.
        note: what is special about the layer, such as `empty` or `frozen (requires_grad=False)`.
    """

    layer: Layer
    rule: int | None = None
    sparsity: float | None = None
    total: float | None = None
    cap: float | None = None
    excluded: bool = False
    named: bool = False
    note: str = ""

    @property
    def selected(self) -> bool:
        """Whether a pruner will touch this layer."""
        return self.sparsity is not None or self.total is not None

    @property
    def removes(self) -> str:
        """The amount in words: `0.8`, `0.8 shared, at most 0.9`, `excluded`, or empty."""
        amount = f"{self.sparsity:g}" if self.sparsity is not None else ""
        amount = f"{self.total:g} shared" if self.total is not None else amount
        amount = f"{amount}, at most {self.cap:g}" if amount and self.cap is not None else amount
        return "excluded" if self.excluded else amount

    def cells(self) -> tuple[str, ...]:
        """Return the cells of this row in a table."""
        shape = "x".join(map(str, self.layer.shape))
        rule = "" if self.rule is None else str(self.rule)
        return self.layer.name or self.layer.weight, self.layer.type, shape, rule, self.removes, self.note


@attrs.frozen(repr=False)
class Plan:
    """A config resolved on a model, readable as a table before anything runs.

    Examples:
        >>> import torch
        >>> from fprune.config import Config
        >>> plan = Config(0.5).resolve({"a.weight": torch.ones(4, 3), "a.bias": torch.ones(4), "b": torch.ones(2)})
        >>> print(plan)
        Plan: 1 of 2 layers
        layer  type       shape  rule  removes  note
        -----  ---------  -----  ----  -------  ----
        a      Parameter  4x3    0     0.5
        b      Parameter  2
        >>> plan["a"].sparsity, plan["b"].selected
        (0.5, False)

    Args:
        rows: one row for each layer, in the order of the modules.
        rules: the rules that were resolved.
    """

    rows: tuple[Row, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def selected(self) -> tuple[Row, ...]:
        """The rows a pruner will touch: those with a sparsity or a share in a total."""
        return tuple(row for row in self.rows if row.selected)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if name in names_of(row.layer):
                return row
        known = [row.layer.name for row in self.rows]
        raise ConfigError(f"no layer {name!r} in the plan", hint=close_matches(name, known) or _few("layers", known))

    def __repr__(self) -> str:
        return f"Plan({len(self.selected)} of {len(self.rows)} layers, {len(self.rules)} rules)"

    def __str__(self) -> str:
        return text_table(_HEADERS, [row.cells() for row in self.rows], title=self._title())

    def _repr_html_(self) -> str:
        return html_table(_HEADERS, [row.cells() for row in self.rows], title=self._title())

    def _title(self) -> str:
        return f"Plan: {len(self.selected)} of {len(self.rows)} layers"


def names_of(layer: Layer) -> tuple[str, ...]:
    """Return the exact names that select a layer: its own, its weight's, and those of modules tied to it.

    Examples:
        >>> from fprune.layers import layers_of
        >>> names_of(layers_of({"fc.weight": Tensor(2, 2)})[0])
        ('fc', 'fc.weight')
    """
    tail = layer.weight.rpartition(".")[2]
    return layer.name, layer.weight, *layer.aliases, *(f"{alias}.{tail}" for alias in layer.aliases)


def resolve(rules: Sequence[Rule], layers: Sequence[Layer], params: Mapping[str, Tensor]) -> Plan:
    """Decide for each layer which rule wins: the last one that selects it.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"a.weight": Tensor(4, 3), "b.weight": Tensor(4, 4)}
        >>> rules = [Rule(sparsity=0.5), Rule(op_names=["b"], exclude=True)]
        >>> [row.removes for row in resolve(rules, layers_of(params), params)]
        ['0.5', 'excluded']

    Args:
        rules: the rules, general ones first.
        layers: what can be selected.
        params: the layers' tensors; only shapes, dtypes and `requires_grad` are read.

    Returns:
        The plan, one row for each layer.

    Raises:
        ConfigError: a selector matches nothing, a rule has no effect, or nothing would be pruned.
        ModelError: there is no layer at all.
    """
    if not layers:
        raise ModelError("the model has no parameters to prune", hint="pass the trained module, not a bare function")
    matched = [_matched(index, rule, layers) for index, rule in enumerate(rules)]
    winners = [max((i for i, hits in enumerate(matched) if n in hits), default=None) for n in range(len(layers))]
    for index, hits in enumerate(matched):
        _refuse_dead(index, hits, rules, layers, winners)
    frozen = _frozen(params)
    rows = [
        _row(layer, winner, rules, params[layer.weight], layer.weight in frozen)
        for layer, winner in zip(layers, winners, strict=True)
    ]
    plan = Plan(tuple(rows), tuple(rules))
    if not plan.selected:
        excluded = [row.layer.name for row in rows if row.excluded]
        found = f"every selected layer is excluded ({_quoted(excluded)})" if excluded else "no layer is selected"
        raise ConfigError(f"the config would prune nothing: {found}", hint="add a rule with a sparsity after them")
    return plan


def _row(layer: Layer, winner: int | None, rules: Sequence[Rule], weight: Tensor, frozen: bool) -> Row:
    """Return the row of one layer."""
    note = "frozen (requires_grad=False)" if frozen else ""
    note = "empty" if weight.numel() == 0 else note
    note = "not float" if not weight.is_floating_point() else note
    if winner is None:
        return Row(layer, note=note)
    rule = rules[winner]
    named = not set(rule.op_names).isdisjoint(names_of(layer))
    if rule.exclude:
        return Row(layer, winner, excluded=True, named=named, note=note)
    if note == "not float" and named:
        found = f"rule {winner}: {layer.weight!r} has dtype {weight.dtype}; only floating point weights can be pruned"
        raise ConfigError(found, hint="prune before quantizing, or leave the name out")
    if note in ("not float", "empty"):
        return Row(layer, winner, named=named, note=note)
    cap = rule.max_sparsity_per_layer
    if isinstance(cap, Flat):
        cap = next((cap[name] for name in names_of(layer) if name in cap), None)
    return Row(layer, winner, rule.sparsity, rule.total_sparsity, cap, named=named, note=note)


def _matched(index: int, rule: Rule, layers: Sequence[Layer]) -> frozenset[int]:
    """Return the positions of the layers a rule selects."""
    if not rule.allow_empty:
        _check_selectors(index, rule, layers)
    hits = frozenset(n for n, layer in enumerate(layers) if _selects(rule, layer))
    if not hits and not rule.allow_empty:
        types = sorted({layer.type for layer in layers})
        by_name = [layer for layer in layers if rule.op_partial_names and _by_name(rule, layer)]
        hint = f"types in this model: {_quoted(types)}; allow_empty=True accepts an empty rule"
        if by_name and not rule.op_types:
            found = sorted({layer.type for layer in by_name})
            hint = f"substrings reach the default types only; add op_types={found} to mean these"
        raise ConfigError(f"rule {index}: no layer matches {rule!r}", hint=hint)
    if isinstance(rule.max_sparsity_per_layer, Flat):
        known = [name for n in sorted(hits) for name in names_of(layers[n])]
        for name in rule.max_sparsity_per_layer:
            if name not in known and not rule.allow_empty:
                found = f"rule {index}: max_sparsity_per_layer names {name!r}, which the rule does not select"
                selected = [layers[n].name for n in sorted(hits)]
                raise ConfigError(found, hint=close_matches(name, selected) or _few("it selects", selected))
    return hits


def _by_name(rule: Rule, layer: Layer) -> bool:
    if not rule.op_names and not rule.op_partial_names:
        return True
    exact = not set(rule.op_names).isdisjoint(names_of(layer))
    return exact or any(part in name for part in rule.op_partial_names for name in (layer.name, *layer.aliases))


def _selects(rule: Rule, layer: Layer) -> bool:
    """Whether types and names of a rule select the layer."""
    if rule.op_types:
        return (layer.type in rule.op_types or ("default" in rule.op_types and layer.default)) and _by_name(rule, layer)
    any_type = layer.default or rule.exclude or not set(rule.op_names).isdisjoint(names_of(layer))
    return any_type and _by_name(rule, layer)


def _check_selectors(index: int, rule: Rule, layers: Sequence[Layer]) -> None:
    """Refuse each name, substring and type that matches nothing by itself."""
    types = sorted({layer.type for layer in layers})
    for kind in rule.op_types:
        if kind not in types and not (kind == "default" and any(layer.default for layer in layers)):
            hint = f"types in this model: {_quoted(types)}. {close_matches(kind, types)}".strip()
            raise ConfigError(f"rule {index}: no layer of type {kind!r}", hint=hint)
    known = {name for layer in layers for name in names_of(layer)}
    for name in rule.op_names:
        if name not in known:
            raise ConfigError(f"rule {index}: no layer {name!r}", hint=_name_hint(name, layers))
    for part in rule.op_partial_names:
        if not any(part in name for layer in layers for name in (layer.name, *layer.aliases)):
            names = [layer.name for layer in layers]
            hint = close_matches(part, names) or _few("layers", names)
            raise ConfigError(f"rule {index}: no layer name contains {part!r}", hint=hint)


def _name_hint(name: str, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    inside = [other for other in names if other.startswith(f"{name}.")]
    owner = next((layer.name for layer in layers if layer.bias == name), None)
    if owner is not None:
        return f"a bias goes with its layer; name {owner!r}"
    if inside:
        return f"{name!r} holds {len(inside)} layers; op_partial_names=['{name}.'] selects them"
    if "*" in name:
        return "op_names are exact; op_partial_names selects by a substring"
    known = list(dict.fromkeys(other for layer in layers for other in names_of(layer)))
    return close_matches(name, names) or close_matches(name, known) or _few("layers", names)


def _refuse_dead(
    index: int, hits: frozenset[int], rules: Sequence[Rule], layers: Sequence[Layer], winners: Sequence[int | None]
) -> None:
    """Refuse a rule that later rules override on every layer it selects."""
    later = sorted({winner for n in hits if (winner := winners[n]) is not None})
    if not hits or index in later:
        return
    names = _quoted([layers[n].name for n in sorted(hits)])
    shown = "; ".join(f"rule {i} is {rules[i]!r}" for i in (index, *later))
    hint = f"later rules win: put the general rule first and its exceptions after it, or delete rule {index}"
    by = " and ".join(f"rule {i}" for i in later) + (" override" if len(later) > 1 else " overrides")
    raise ConfigError(f"rule {index} has no effect: {by} it on {names}. {shown}", hint=hint)


def _frozen(params: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names of parameters that do not train; plain tensors never do, so they do not count."""
    if isinstance(params, Model):
        pairs = params.skeleton.named_parameters(remove_duplicate=False)
        return frozenset(name for name, parameter in pairs if not parameter.requires_grad)
    pairs = params.items()
    return frozenset(name for name, value in pairs if isinstance(value, nn.Parameter) and not value.requires_grad)


def _quoted(names: Sequence[str], limit: int = 6) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + rest


def _few(what: str, names: Sequence[str]) -> str:
    return f"{what}: {_quoted(names)}"
