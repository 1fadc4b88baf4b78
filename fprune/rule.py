"""One line of a configuration: which layers, and which fraction of them to remove."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs

from fprune import fields
from fprune.errors import ConfigError, ConfigTypeError, close_matches
from fprune.tables import html_table
from fprune.tree import Flat

__all__ = ["Rule"]

_ONE_AMOUNT = (
    "sparsity holds for each layer, total_sparsity is shared by them, and a budget is of the whole model; keep one"
)


_ALWAYS = {
    "later_wins": "a later rule always wins over an earlier one, layer by layer; leave it out",
    "allow_full": "no layer is ever emptied; ask for less, or take the layer out of the network",
}
"""Keys that other tools have for what is one way only here."""


@attrs.frozen(kw_only=True, repr=False)
class Rule:
    """Select layers and say which fraction of them to remove.

    Types *and* names select, where names are `op_names` or `op_partial_names`. Without a selector a rule
    means every layer of the default types: convolutions, linear and bilinear layers, PReLU, embeddings.
    A substring without `op_types` also stays among the default types, an exact name may be any parameter;
    a rule that excludes reaches layers of any type.

    Examples:
        >>> Rule(op_types=["Conv2d"], sparsity=0.8)
        Rule(op_types=('Conv2d',), sparsity=0.8)
        >>> Rule(op_names=["fc"], exclude=True)
        Rule(op_names=('fc',), exclude=True)
        >>> Rule(op_types="Conv2d", sparsity=0.8)
        Traceback (most recent call last):
        fprune.errors.ConfigTypeError: op_types: expected a list of names, got 'Conv2d' (str)
        hint: write ['Conv2d']

    Args:
        op_types: class names of modules, such as `"Conv2d"`; `"default"` stands for the default types.
        op_names: exact names of layers or parameters, such as `"layer1.0.conv1"` or `"head.scale"`.
        op_partial_names: substrings of layer names.
        sparsity: fraction to remove of each selected layer, in `[0, 1)`.
        total_sparsity: fraction to remove of all selected layers together, in `[0, 1)`; the allocation divides it.
        budget: fractions of the whole model's FLOPs and parameters to remove, each in `[0, 1)`, as `fprune.count`
            counts them: `{"flops": 0.5}`, `{"params": 0.4}` or both. The fewest units go that meet all; what other
            rules remove counts too. A config has at most one rule with a budget.
        max_sparsity_per_layer: upper bound for one layer, in `(0, 1]`; a number, or a number for each layer name.
        granularity: which of the selected layers' units go, for `dependency_aware`: `"head"` (whole attention heads),
            `"head_dim"` (the width of every head), `"channel"` (everything else) or `"family:<name>"` (one family of
            the model's structure). By default a layer loses heads where it has heads, and channels where it has none.
        round_to: every family keeps a whole multiple of this many units, for `dependency_aware`.
        min_kept: every family keeps at least this many units, for `dependency_aware`.
        keep_class: take fewer units where the code of the model ties sizes together (`width // num_heads`, equal
            halves), so that the smaller model keeps it, for `dependency_aware`.
        exclude: leave the selected layers alone; a later rule may select them again.
        allow_empty: accept that a selector matches nothing.

    Raises:
        ConfigTypeError: a value of the wrong type.
        ConfigError: a value out of range, or keys that contradict each other.
    """

    op_types: tuple[str, ...] = attrs.field(default=(), converter=fields.names("op_types"))
    op_names: tuple[str, ...] = attrs.field(default=(), converter=fields.names("op_names"))
    op_partial_names: tuple[str, ...] = attrs.field(default=(), converter=fields.names("op_partial_names"))
    sparsity: float | None = attrs.field(default=None, converter=fields.fraction("sparsity"))
    total_sparsity: float | None = attrs.field(default=None, converter=fields.fraction("total_sparsity"))
    # A Flat is equal by value and has no hash; leaving it out of the hash keeps rules hashable.
    budget: Flat[float] | None = attrs.field(default=None, converter=fields.budget, hash=False)
    max_sparsity_per_layer: float | Flat[float] | None = attrs.field(default=None, converter=fields.cap, hash=False)
    granularity: str | None = attrs.field(default=None, converter=fields.granularity)
    round_to: int = attrs.field(default=1, converter=fields.count("round_to"))
    min_kept: int = attrs.field(default=1, converter=fields.count("min_kept"))
    keep_class: bool = attrs.field(default=False, converter=fields.flag("keep_class"))
    exclude: bool = attrs.field(default=False, converter=fields.flag("exclude"))
    allow_empty: bool = attrs.field(default=False, converter=fields.flag("allow_empty"))

    def __attrs_post_init__(self) -> None:
        amounts = {"sparsity": self.sparsity, "total_sparsity": self.total_sparsity, "budget": self.budget}
        given = [key for key, value in amounts.items() if value is not None]
        details = ("max_sparsity_per_layer", "granularity", "round_to", "min_kept", "keep_class")
        if self.exclude and (told := [key for key in (*amounts, *details) if key in self._given()]):
            raise ConfigError(f"exclude=True contradicts {told[0]}", hint=f"leave out {told[0]}, or use two rules")
        if not self.exclude and not given:
            hint = "add sparsity (for each layer), total_sparsity (for all of them together), budget or exclude=True"
            raise ConfigError(f"the rule does not say how much to remove: {self!r}", hint=hint)
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} exclude each other", hint=_ONE_AMOUNT)
        if self.budget is not None and self.keep_class:
            hint = "leave out keep_class; speed_up() then generates the forward of a class that cannot hold the result"
            raise ConfigError("keep_class gives units back, so a budget would not be met", hint=hint)
        cap = self.max_sparsity_per_layer
        if self.budget is None and isinstance(cap, float) and self.amount > cap:
            found = f"{given[0]} {self.amount:g} is more than max_sparsity_per_layer {cap:g}"
            raise ConfigError(f"{found}, so it cannot be reached", hint=f"raise the bound, or ask for {cap:g}")

    @property
    def amounts(self) -> Flat[float]:
        """What this rule removes: `sparsity`, `total_sparsity`, or the `flops` and `params` of its budget.

        Examples:
            >>> Rule(sparsity=0.5).amounts, Rule(budget={"flops": 0.5, "params": 0.4}).amounts
            (Flat(sparsity=0.5), Flat(flops=0.5, params=0.4))
        """
        if self.budget is not None:
            return self.budget
        pairs = (("sparsity", self.sparsity), ("total_sparsity", self.total_sparsity))
        return Flat({key: value for key, value in pairs if value is not None})

    @property
    def amount(self) -> float:
        """The fraction this rule removes, of each layer or of all; of a budget the largest; 0 when it excludes."""
        return max(self.amounts.values(), default=0.0)

    def map(self, fn: Callable[[float], float]) -> "Rule":
        """Return the rule with a function applied to each of its amounts.

        Examples:
            >>> Rule(budget={"flops": 0.5}).map(lambda part: part / 2)
            Rule(budget={'flops': 0.25})

        Args:
            fn: fraction to fraction.

        Returns:
            The rule; selectors and bounds stay.
        """
        if self.exclude:
            return self
        changed = self.amounts.map(fn)
        return attrs.evolve(self, **(dict(changed) if self.budget is None else {"budget": changed}))

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Rule":
        """Read one entry of the list-of-dicts form; `sparsity_per_layer` is another word for `sparsity`.

        Examples:
            >>> Rule.from_dict({"op_types": ["Linear"], "sparsity_per_layer": 0.5})
            Rule(op_types=('Linear',), sparsity=0.5)

        Args:
            entry: the keys of `Rule`.

        Returns:
            The rule.

        Raises:
            ConfigError: an unknown key, a key given twice under two words, an empty selector, or what `Rule` refuses.
        """
        keys = [field.name for field in attrs.fields(cls)]
        for key in cast("Mapping[object, object]", entry):
            if not isinstance(key, str):
                raise ConfigTypeError(f"expected keys that are strings, got {key!r}", hint=f"keys: {', '.join(keys)}")
            if key not in (*keys, "sparsity_per_layer"):
                raise ConfigError(f"unknown key {key!r}", hint=_key_hint(key, [*keys, "sparsity_per_layer"]))
            if key.startswith("op_") and isinstance(entry[key], list | tuple) and not entry[key]:
                hint = "an empty list selects nothing; leave the key out to select by the other keys"
                raise ConfigError(f"{key}: the list is empty", hint=hint)
        if "sparsity" in entry and "sparsity_per_layer" in entry:
            raise ConfigError("sparsity and sparsity_per_layer are the same key", hint="keep one")
        return cls(**{"sparsity" if key == "sparsity_per_layer" else key: value for key, value in entry.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the entry `from_dict` reads: plain lists, numbers and dicts, defaults left out.

        Examples:
            >>> Rule(op_types=["Linear"], sparsity=0.5).to_dict()
            {'op_types': ['Linear'], 'sparsity': 0.5}

        Returns:
            A dict that JSON can hold.
        """
        return {key: _plain(value) for key, value in self._given().items()}

    def _given(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, in order."""
        fields = {field.name: (getattr(self, field.name), field.default) for field in attrs.fields(type(self))}
        return {name: value for name, (value, default) in fields.items() if value != default}

    def __repr__(self) -> str:
        shown = [
            f"{key}={_plain(value) if isinstance(value, Flat) else value!r}" for key, value in self._given().items()
        ]
        return f"Rule({', '.join(shown)})"

    def _repr_html_(self) -> str:
        return html_table(("key", "value"), [(key, str(value)) for key, value in self.to_dict().items()], title="Rule")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, tuple):
        return list(cast("tuple[str, ...]", value))
    return dict(cast("Flat[float]", value)) if isinstance(value, Flat) else value


def _key_hint(key: str, known: list[str]) -> str:
    if key == "rho":
        return "rho is an option of the pruner, not of the config: admm(..., rho=...)"
    if key in ("later_wins", "allow_full"):
        return _ALWAYS[key]
    return close_matches(key, known) or f"known keys: {', '.join(known)}"
