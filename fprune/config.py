"""What to prune and how much: rules, in the order in which they apply."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import attrs
from torch import Tensor

from fprune.errors import ConfigError, ConfigTypeError
from fprune.fields import ratio
from fprune.layers import Layer, layers_of
from fprune.model import Model
from fprune.plan import Plan, Row, resolve
from fprune.rule import Rule
from fprune.tables import html_table

__all__ = ["Config", "ConfigLike", "Rule"]


@runtime_checkable
class Layered(Protocol):
    """Parameters that bring their layers with them, as a `Scope` does."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers a rule can select."""
        ...

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The parameters by name."""
        ...


def _rules(value: "ConfigLike") -> tuple[Rule, ...]:
    """Read every accepted form of a config."""
    found: object = value
    if isinstance(found, Config):
        return found.rules
    if isinstance(found, Rule):
        return (found,)
    if isinstance(found, Mapping):
        return (_rule(0, cast("object", found)),)
    if isinstance(found, list | tuple):
        entries = cast("Iterable[object]", found)
        rules = tuple(_rule(index, entry) for index, entry in enumerate(entries))
        if not rules:
            hint = "write a fraction, such as 0.5, or rules, such as [{'op_types': ['Conv2d'], 'sparsity': 0.5}]"
            raise ConfigError("the config is empty and would prune nothing", hint=hint)
        return rules
    if isinstance(found, Real | str | Tensor):
        return (Rule(sparsity=ratio(found, "sparsity")),)
    hint = "a fraction such as 0.5, a Rule, or a list of rules or dicts"
    raise ConfigTypeError(f"expected a config, got {type(found).__name__}", hint=hint)


def _alone(row: Row, plan: Plan, sparsity: float) -> Rule:
    """Return the rule that won a layer, for this layer alone."""
    index = row.rule
    if index is None or not row.selected:
        raise ConfigError(f"layer {row.exact_name!r} is not selected", hint="leave it out, or give it a rule")
    changes: dict[str, Any] = {"op_types": (), "op_names": (row.exact_name,), "op_partial_names": ()}
    changes |= {"sparsity": sparsity, "total_sparsity": None, "budget": None, "max_sparsity_per_layer": row.cap}
    return _at(index, lambda: attrs.evolve(plan.rules[index], **changes))


def _rule(index: int, entry: object) -> Rule:
    """Read one entry of a list; an error names its index."""
    if isinstance(entry, Rule):
        return entry
    if not isinstance(entry, Mapping):
        found = f"rule {index}: expected a Rule or a dict, got {entry!r} ({type(entry).__name__})"
        raise ConfigTypeError(found, hint="a bare fraction stands alone: Config(0.5)")
    return _at(index, lambda: Rule.from_dict(cast("Mapping[str, Any]", entry)))


def _at(index: int, make: Callable[[], Rule]) -> Rule:
    """Make a rule; an error says which one it was."""
    try:
        return make()
    except ConfigError as error:
        raise type(error)(f"rule {index}: {error.message}", hint=error.hint) from None


@attrs.frozen(repr=False)
class Config:
    """Rules in order; for each layer the last rule that selects it wins.

    Every sparsity is the fraction *removed*, in `[0, 1)`, measured on the original model.

    Examples:
        >>> Config(0.8)
        Config(0.8)
        >>> Config([{"op_types": ["Conv2d"], "sparsity": 0.8}, {"op_names": ["conv1"], "exclude": True}])
        Config([Rule(op_types=('Conv2d',), sparsity=0.8), Rule(op_names=('conv1',), exclude=True)])
        >>> Config([{"op_type": ["Conv2d"], "sparsity": 0.8}])
        Traceback (most recent call last):
        fprune.errors.ConfigError: rule 0: unknown key 'op_type'
        hint: Did you mean 'op_types'...

    Args:
        rules: a fraction for every default layer, one rule, or a list of rules and dicts.

    Raises:
        ConfigTypeError: a value of the wrong type; the message names the rule, counted from 0.
        ConfigError: a value out of range, an unknown key, an empty list, two rules with a budget.
    """

    rules: tuple[Rule, ...] = attrs.field(converter=_rules)

    def __attrs_post_init__(self) -> None:
        both = [index for index, rule in enumerate(self.rules) if rule.budget is not None]
        if len(both) > 1:
            hint = "a budget is of the whole model: select the layers of both by one rule"
            raise ConfigError(f"rules {both[0]} and {both[1]} have a budget each", hint=hint)

    @classmethod
    def of(cls, value: "ConfigLike") -> "Config":
        """Return a config as it is, and make one of anything else.

        Examples:
            >>> Config.of(0.5) == Config.of(Config(0.5)) == Config.of(Rule(sparsity=0.5))
            True

        Args:
            value: a config, a fraction, a rule, or a list of rules and dicts.

        Returns:
            The config.
        """
        return value if isinstance(value, Config) else cls(value)

    @classmethod
    def uniform(cls, sparsity: float) -> "Config":
        """Return one sparsity for every layer of the default types.

        Examples:
            >>> Config.uniform(0.5)
            Config(0.5)

        Args:
            sparsity: fraction to remove of each layer, in `[0, 1)`.

        Returns:
            The config.
        """
        return cls((Rule(sparsity=sparsity),))

    @classmethod
    def from_list(cls, entries: Sequence[Mapping[str, Any]]) -> "Config":
        """Read the list-of-dicts form.

        Examples:
            >>> Config.from_list([{"sparsity_per_layer": 0.5}])
            Config(0.5)

        Args:
            entries: one dict for each rule, with the keys of `Rule`.

        Returns:
            The config.

        Raises:
            ConfigError: an unknown key or a bad value; names the rule, counted from 0.
        """
        found: object = entries
        if not isinstance(found, list | tuple):
            hint = "Config.of reads a fraction or a rule as well"
            raise ConfigTypeError(f"expected a list of dicts, got {type(found).__name__}", hint=hint)
        return cls(entries)

    @classmethod
    def allocated(cls, plan: Plan, sparsities: Mapping[str, float]) -> "Config":
        """Return one rule for each of some layers, with a sparsity of its own.

        A layer keeps the other keys of the rule that selected it (its bound, granularity, multiples) and what the plan
        excludes stays excluded; layers that are not named are left alone.

        Examples:
            >>> import torch
            >>> plan = Config([{"total_sparsity": 0.5}]).resolve({"a": torch.ones(4, 3), "b": torch.ones(2, 3)})
            >>> Config.allocated(plan, {"a": 0.75, "b": 0.0})
            Config([Rule(op_names=('a',), sparsity=0.75), Rule(op_names=('b',), sparsity=0.0)])

        Args:
            plan: what the layers are selected by, such as `setting.plan`.
            sparsities: layer name or weight name -> fraction to remove, in `[0, 1)`.

        Returns:
            The config.

        Raises:
            ConfigError: a layer is not in the plan or not selected, or a sparsity is out of its range.
        """
        known = {name: row.layer.weight for row in plan.rows for name in row.layer.names}
        asked = {known.get(name) or plan[name].layer.weight: amount for name, amount in sparsities.items()}
        rules: list[Rule] = []
        for row in plan.rows:
            if row.excluded:
                rules.append(Rule(op_names=[row.exact_name], exclude=True))
            elif row.layer.weight in asked:
                rules.append(_alone(row, plan, asked[row.layer.weight]))
        return cls(tuple(rules))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the list-of-dicts form, which JSON can hold.

        Examples:
            >>> Config(0.5).to_list()
            [{'sparsity': 0.5}]

        Returns:
            One dict for each rule; `from_list` reads it back to an equal config.
        """
        return [rule.to_dict() for rule in self.rules]

    def map(self, fn: Callable[[float], float]) -> "Config":
        """Apply a function to each rule's `sparsity`, `total_sparsity`, or parts of its `budget`.

        Examples:
            >>> Config([{"total_sparsity": 0.75}]).map(lambda s: s / 3)
            Config([Rule(total_sparsity=0.25)])

        Args:
            fn: fraction to fraction.

        Returns:
            The new config; selectors and bounds stay.

        Raises:
            ConfigError: a result is not in `[0, 1)`; names the rule.
        """
        return Config(tuple(_at(index, partial(rule.map, fn)) for index, rule in enumerate(self.rules)))

    def scaled(self, factor: float) -> "Config":
        """Multiply every sparsity by a factor, as schedules do on their way to the target.

        `scaled(1)` is the config itself, exactly.

        Examples:
            >>> Config(0.8).scaled(0.5)
            Config(0.4)

        Args:
            factor: in `[0, 1]`.

        Returns:
            The scaled config.

        Raises:
            ConfigError: the factor is not in `[0, 1]`.
        """
        number: object = factor
        if isinstance(number, bool) or not isinstance(number, Real):
            found = f"scaled: expected a factor in [0, 1], got {number!r} ({type(number).__name__})"
            raise ConfigTypeError(found, hint="1 keeps the target, 0 removes nothing")
        if not 0.0 <= float(number) <= 1.0:
            hint = "1 is the target; to go beyond it, make a config with a higher sparsity"
            raise ConfigError(f"scaled: expected a factor in [0, 1], got {float(number):g}", hint=hint)
        return self if float(number) == 1.0 else self.map(lambda sparsity: sparsity * float(number))

    def resolve(self, params: "Mapping[str, Tensor] | Layered") -> Plan:
        """Decide for each layer which rule wins; reads shapes only.

        Examples:
            >>> import torch
            >>> Config(0.5).resolve({"w": torch.ones(4, 3)})["w"].sparsity
            0.5

        Args:
            params: a `Model`, or any mapping of names to tensors.

        Returns:
            The plan: one row for each layer.

        Raises:
            ConfigError: a selector matches nothing, a rule has no effect, or nothing would be pruned.
            ModelError: there are no parameters.
        """
        if isinstance(params, Model):
            return resolve(self.rules, params.layers, params)
        if isinstance(params, Layered):
            return resolve(self.rules, params.layers, params.params)
        return resolve(self.rules, layers_of(params, None), params)

    def __repr__(self) -> str:
        if len(self.rules) == 1 and self.rules[0] == Rule(sparsity=self.rules[0].amount):
            return f"Config({self.rules[0].amount!r})"
        return f"Config([{', '.join(map(repr, self.rules))}])"

    def _repr_html_(self) -> str:
        return html_table(("rule", "what"), [(str(i), repr(rule)) for i, rule in enumerate(self.rules)], title="Config")


ConfigLike: TypeAlias = Config | float | Rule | Mapping[str, Any] | Sequence["Rule | Mapping[str, Any]"]
"""Everything `Config.of` reads: a config, a fraction, a rule, a dict, or a list of rules and dicts."""
