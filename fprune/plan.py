"""What a config means for one model: a row for each layer, with the rule that won."""

from collections.abc import Iterator, Mapping, Sequence

import attrs
from torch import Tensor, nn

from fprune.errors import ConfigError, ModelError, close_matches
from fprune.layers import Layer
from fprune.model import Model
from fprune.rule import Rule
from fprune.selectors import few, matched, quoted, refuse_dead
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
        granularity: which kind of its units go, `head`, `head_dim`, `channel` or `family:<name>`; None for the usual.
        round_to: how many units are kept is a multiple of this.
        min_kept: at least so many units are kept.
        keep_class: fewer units go where the model's code would not hold the result.
        budget: fractions of the whole model's FLOPs and parameters that all layers of the same rule bring about.
        over: indices of the earlier rules that select the layer too, and are overridden.
    """

    layer: Layer
    rule: int | None = None
    sparsity: float | None = None
    total: float | None = None
    cap: float | None = None
    excluded: bool = False
    named: bool = False
    note: str = ""
    granularity: str | None = None
    round_to: int = 1
    min_kept: int = 1
    keep_class: bool = False
    budget: Flat[float] | None = attrs.field(default=None, hash=False)
    over: tuple[int, ...] = ()

    @property
    def selected(self) -> bool:
        """Whether a pruner will touch this layer."""
        return not (self.sparsity is None and self.total is None and self.budget is None)

    @property
    def exact_name(self) -> str:
        """A name that selects this layer and no other one."""
        return self.layer.name or self.layer.weight

    @property
    def removes(self) -> str:
        """The amount in words: `0.8, at most 0.9`, `0.5 of head`, `flops 0.5 of the model`, `excluded`, or none."""
        amount = f"{self.sparsity:g}" if self.sparsity is not None else ""
        amount = f"{self.total:g} shared" if self.total is not None else amount
        amount = _budgeted(self.budget) if self.budget is not None else amount
        if self.excluded or not amount:
            return "excluded" if self.excluded else ""
        of = f" of {self.granularity}" if self.granularity is not None else ""
        most = f", at most {self.cap:g}" if self.cap is not None else ""
        multiples = f", kept in multiples of {self.round_to}" if self.round_to > 1 else ""
        least = f", {self.min_kept} kept at least" if self.min_kept > 1 else ""
        classes = ", as the class allows" if self.keep_class else ""
        return f"{amount}{of}{most}{multiples}{least}{classes}"

    def cells(self) -> tuple[str, ...]:
        """Return the cells of this row in a table."""
        shape = "x".join(map(str, self.layer.shape))
        rule = "" if self.rule is None else str(self.rule)
        rule += f" over {', '.join(map(str, self.over))}" if self.over else ""
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
            if name in row.layer.names:
                return row
        known = [row.layer.name for row in self.rows]
        raise ConfigError(f"no layer {name!r} in the plan", hint=close_matches(name, known) or few("layers", known))

    def __repr__(self) -> str:
        return f"Plan({len(self.selected)} of {len(self.rows)} layers, {len(self.rules)} rules)"

    def __str__(self) -> str:
        return text_table(_HEADERS, [row.cells() for row in self.rows], title=self._title())

    def _repr_html_(self) -> str:
        return html_table(_HEADERS, [row.cells() for row in self.rows], title=self._title())

    def _title(self) -> str:
        return f"Plan: {len(self.selected)} of {len(self.rows)} layers"


def resolve(rules: Sequence[Rule], layers: Sequence[Layer], params: Mapping[str, Tensor]) -> Plan:
    """Decide for each layer which rule wins: the last one that selects it.

    Examples:
        >>> from fprune.layers import layers_of
        >>> params = {"a.weight": Tensor(4, 3), "b.weight": Tensor(4, 4)}
        >>> rules = [Rule(sparsity=0.5), Rule(op_names=["b"], exclude=True)]
        >>> print(resolve(rules, layers_of(params), params))
        Plan: 1 of 2 layers
        layer  type       shape  rule      removes   note
        -----  ---------  -----  --------  --------  ----
        a      Parameter  4x3    0         0.5
        b      Parameter  4x4    1 over 0  excluded

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
    hits = [matched(index, rule, layers) for index, rule in enumerate(rules)]
    winners = [max((i for i, found in enumerate(hits) if n in found), default=None) for n in range(len(layers))]
    for index, found in enumerate(hits):
        refuse_dead(index, found, rules, layers, winners)
    frozen = _frozen(params)
    rows = [
        attrs.evolve(
            _row(layer, winner, rules, params[layer.weight], layer.weight in frozen),
            over=tuple(i for i, found in enumerate(hits) if n in found and i != winner),
        )
        for n, (layer, winner) in enumerate(zip(layers, winners, strict=True))
    ]
    plan = Plan(tuple(rows), tuple(rules))
    if not plan.selected:
        raise ConfigError(
            f"the config would prune nothing: {_why_nothing(rows)}", hint="add a rule with a sparsity after them"
        )
    return plan


def _why_nothing(rows: Sequence[Row]) -> str:
    excluded = [row.layer.name for row in rows if row.excluded]
    skipped = [f"{row.layer.weight!r} is {row.note}" for row in rows if row.rule is not None and row.note]
    if excluded:
        return f"every selected layer is excluded ({quoted(excluded)})"
    return (
        f"no layer that the rules select can be pruned ({'; '.join(skipped[:4])})"
        if skipped
        else "no layer is selected"
    )


def _row(layer: Layer, winner: int | None, rules: Sequence[Rule], weight: Tensor, frozen: bool) -> Row:
    """Return the row of one layer."""
    note = "frozen (requires_grad=False)" if frozen else ""
    note = "part of a computed weight (parametrization)" if ".parametrizations." in layer.weight else note
    note = "empty" if weight.numel() == 0 else note
    note = "not float" if not weight.is_floating_point() else note
    if winner is None:
        return Row(layer, note=note)
    rule = rules[winner]
    named = not set(rule.op_names).isdisjoint(layer.names)
    if rule.exclude:
        return Row(layer, winner, excluded=True, named=named, note=note)
    if note == "not float" and named:
        found = f"rule {winner}: {layer.weight!r} has dtype {weight.dtype}; only floating point weights can be pruned"
        raise ConfigError(found, hint="prune before quantizing, or leave the name out")
    if note in ("not float", "empty"):
        return Row(layer, winner, named=named, note=note)
    cap = rule.max_sparsity_per_layer
    if isinstance(cap, Flat):
        cap = next((cap[name] for name in layer.names if name in cap), None)
    return Row(
        layer,
        winner,
        rule.sparsity,
        rule.total_sparsity,
        cap,
        named=named,
        note=note,
        granularity=rule.granularity,
        round_to=rule.round_to,
        min_kept=rule.min_kept,
        keep_class=rule.keep_class,
        budget=rule.budget,
    )


def _budgeted(budget: Flat[float]) -> str:
    return " and ".join(f"{key} {part:g}" for key, part in budget.items()) + " of the model"


def _frozen(params: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names of parameters that do not train; plain tensors never do, so they do not count."""
    if isinstance(params, Model):
        pairs = params.skeleton.named_parameters(remove_duplicate=False)
        return frozenset(name for name, parameter in pairs if not parameter.requires_grad)
    pairs = params.items()
    return frozenset(name for name, value in pairs if isinstance(value, nn.Parameter) and not value.requires_grad)
