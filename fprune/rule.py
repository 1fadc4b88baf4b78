"""One line of a configuration: which layers, and which fraction of them to remove."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any, cast

import attrs
from torch import Tensor

from fprune.errors import ConfigError, ConfigTypeError, close_matches
from fprune.tables import html_table
from fprune.tree import Flat

__all__ = ["Rule", "ratio"]


def ratio(value: object, what: str, *, closed: bool = False) -> float:
    """Read a fraction: a real number in `[0, 1)`, or in `(0, 1]` when `closed`.

    Examples:
        >>> ratio(0, "sparsity"), ratio(0.5, "sparsity"), ratio(1, "cap", closed=True)
        (0.0, 0.5, 1.0)
        >>> ratio(1.5, "sparsity")
        Traceback (most recent call last):
        fprune.errors.ConfigError: sparsity: expected a fraction in [0, 1), got 1.5
        hint: 1.5 % is 0.015

    Args:
        value: what the user wrote.
        what: the name to put in front of an error, for example `sparsity`.
        closed: accept 1 and refuse 0, as an upper bound does.

    Returns:
        The value as a float.

    Raises:
        ConfigTypeError: a bool, a string, a tensor, an int other than the legal ends.
        ConfigError: NaN, infinite, or outside the range.
    """
    legal = "(0, 1]" if closed else "[0, 1)"
    expected = f"{what}: expected a fraction in {legal}, got"
    if isinstance(value, bool):
        raise ConfigTypeError(f"{expected} {value} (bool)", hint="write the fraction to remove, for example 0.5")
    if isinstance(value, str):
        raise ConfigTypeError(
            f"{expected} {value!r} (str)", hint="leave out the quotes and write a number, such as 0.5"
        )
    if isinstance(value, Tensor):
        raise ConfigTypeError(f"{expected} a Tensor", hint="take the number out of it with .item()")
    if not isinstance(value, Real):
        raise ConfigTypeError(f"{expected} {value!r} ({type(value).__name__})", hint="write a number, such as 0.5")
    number = float(value)
    if isinstance(value, Integral) and number not in ((1.0,) if closed else (0.0,)):
        raise ConfigTypeError(f"{expected} the int {int(value)}", hint=_int_hint(int(value)))
    if isnan(number):
        raise ConfigError(f"{expected} NaN", hint="look for a 0/0 where this value is computed")
    if not isfinite(number) or number > 1.0:
        percent = f"{number:g} % is {number / 100:g}" if 1.0 < number <= 100.0 else "0.5 removes one half"
        raise ConfigError(f"{expected} {number:g}", hint=percent)
    if number < 0.0:
        raise ConfigError(f"{expected} {number:g}", hint="it is the fraction to remove; 0 removes nothing")
    if number == 1.0 and not closed:
        raise ConfigError(f"{expected} 1.0", hint="1.0 would leave nothing of a layer; ask for less, such as 0.99")
    if number == 0.0 and closed:
        raise ConfigError(f"{expected} 0.0", hint="exclude=True leaves a layer alone")
    return number + 0.0  # -0.0 becomes 0.0, so that equal rules print alike


def _int_hint(value: int) -> str:
    counted = "an int reads like a count, and sparsity is a ratio: 5 of 64 channels is 5 / 64"
    return f"{value} % is {value / 100:g}; {counted}" if 1 <= value < 100 else counted


def _names(key: str) -> Callable[[list[str] | tuple[str, ...]], tuple[str, ...]]:
    def convert(value: list[str] | tuple[str, ...]) -> tuple[str, ...]:
        return _read_names(key, value)

    return convert


def _read_names(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigTypeError(f"{key}: expected a list of names, got {value!r} (str)", hint=f"write [{value!r}]")
    if not isinstance(value, list | tuple):
        found = f"{key}: expected a list or tuple of names, got {type(value).__name__}"
        raise ConfigTypeError(found, hint=f"{key}=['...']")
    return tuple(_read_name(key, name) for name in cast("Iterable[object]", value))


def _read_name(key: str, name: object) -> str:
    if isinstance(name, type):
        found = f"{key}: expected names, got the class {name.__name__}"
        raise ConfigTypeError(found, hint=f"name the class: {name.__name__!r}")
    if not isinstance(name, str):
        found = f"{key}: expected names, got {name!r} ({type(name).__name__})"
        raise ConfigTypeError(found, hint="names are strings")
    if not name:
        raise ConfigError(f"{key}: expected names, got an empty string", hint="leave it out")
    return name


def _fraction(key: str) -> Callable[[float | None], float | None]:
    def convert(value: float | None) -> float | None:
        return None if value is None else ratio(value, key)

    return convert


def _cap(value: "float | Mapping[str, float] | None") -> "float | Flat[float] | None":
    key = "max_sparsity_per_layer"
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return ratio(value, key, closed=True)
    for name in cast("Mapping[object, object]", value):
        if not isinstance(name, str):
            raise ConfigTypeError(f"{key}: expected layer names as keys, got {name!r}", hint="{'conv1': 0.5}")
    if not value:
        raise ConfigError(f"{key}: the mapping is empty", hint="leave it out, or write {'conv1': 0.5}")
    return Flat({name: ratio(limit, f"{key}[{name!r}]", closed=True) for name, limit in value.items()})


def _flag(key: str) -> Callable[[bool], bool]:
    def convert(value: bool) -> bool:
        return _read_flag(key, value)

    return convert


def _read_flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        found = f"{key}: expected True or False, got {value!r} ({type(value).__name__})"
        raise ConfigTypeError(found, hint=f"{key}=True")
    return value


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
        max_sparsity_per_layer: upper bound for one layer, in `(0, 1]`; a number, or a number for each layer name.
        exclude: leave the selected layers alone; a later rule may select them again.
        allow_empty: accept that a selector matches nothing.

    Raises:
        ConfigTypeError: a value of the wrong type.
        ConfigError: a value out of range, or keys that contradict each other.
    """

    op_types: tuple[str, ...] = attrs.field(default=(), converter=_names("op_types"))
    op_names: tuple[str, ...] = attrs.field(default=(), converter=_names("op_names"))
    op_partial_names: tuple[str, ...] = attrs.field(default=(), converter=_names("op_partial_names"))
    sparsity: float | None = attrs.field(default=None, converter=_fraction("sparsity"))
    total_sparsity: float | None = attrs.field(default=None, converter=_fraction("total_sparsity"))
    # A Flat is equal by value and has no hash; leaving it out of the hash keeps rules hashable.
    max_sparsity_per_layer: float | Flat[float] | None = attrs.field(default=None, converter=_cap, hash=False)
    exclude: bool = attrs.field(default=False, converter=_flag("exclude"))
    allow_empty: bool = attrs.field(default=False, converter=_flag("allow_empty"))

    def __attrs_post_init__(self) -> None:
        amounts = {"sparsity": self.sparsity, "total_sparsity": self.total_sparsity}
        given = [key for key, value in amounts.items() if value is not None]
        if self.exclude and (given or self.max_sparsity_per_layer is not None):
            key = (*given, "max_sparsity_per_layer")[0]
            raise ConfigError(f"exclude=True contradicts {key}", hint=f"leave out {key}, or use two rules")
        if not self.exclude and not given:
            hint = "add sparsity (for each layer), total_sparsity (for all of them together) or exclude=True"
            raise ConfigError(f"the rule does not say how much to remove: {self!r}", hint=hint)
        if len(given) == 2:
            hint = "sparsity holds for each layer, total_sparsity is shared by them; keep one"
            raise ConfigError("sparsity and total_sparsity exclude each other", hint=hint)
        cap = self.max_sparsity_per_layer
        if given and isinstance(cap, float) and self.amount > cap:
            found = f"{given[0]} {self.amount:g} is more than max_sparsity_per_layer {cap:g}"
            raise ConfigError(f"{found}, so it cannot be reached", hint=f"raise the bound, or ask for {cap:g}")

    @property
    def amount(self) -> float:
        """The fraction this rule removes, of each layer or of all together; 0 when it excludes."""
        return next((value for value in (self.sparsity, self.total_sparsity) if value is not None), 0.0)

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
    return close_matches(key, known) or f"known keys: {', '.join(known)}"
