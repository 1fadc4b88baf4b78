"""An expression as a value: a function, the arguments it was called with, and the text that makes it again."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, cast, final

import attrs
from torch import Tensor

from fprune.tree import brief, count, same

_Pairs = tuple[tuple[str, Any], ...]
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, type)


def expression(value: object) -> str:
    """The text of a value inside an expression: functions and classes by name, data in brief, the rest by `repr`.

    Examples:
        >>> import torch
        >>> expression((len, 0.5, {"p": max}))
        "(len, 0.5, {'p': max})"
        >>> expression(lambda: None)
        '<lambda>'
        >>> expression([(torch.zeros(8, 3), torch.zeros(8))] * 20)
        '[(<float32[8, 3]>, <float32[8]>), ... 19 more]'
    """
    if isinstance(value, _FUNCTIONS):
        return value.__qualname__.rpartition("<locals>.")[2]
    if isinstance(value, partial):
        bound = cast("partial[Any]", value)
        return call_text("partial", (bound.func, *bound.args), tuple(bound.keywords.items()))
    if type(value) is tuple:
        items = [expression(v) for v in cast("tuple[object, ...]", value)]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if type(value) is list:
        items = cast("list[object]", value)
        if len(items) > 1 and count(items):  # data; what makes it again is not in its values
            return f"[{expression(items[0])}, ... {len(items) - 1} more]"
        return f"[{', '.join(expression(v) for v in items)}]"
    if type(value) is dict:
        table = cast("dict[object, object]", value)
        return "{" + ", ".join(f"{expression(k)}: {expression(v)}" for k, v in table.items()) + "}"
    if isinstance(value, Tensor):
        return f"<{brief(value)}>"
    if type(value) in (set, frozenset):
        return "{" + ", ".join(sorted(map(expression, cast("set[object]", value)))) + "}" if value else repr(value)
    # A repr may have addresses in it, so that one expression would read differently in every process.
    return f"<{type(value).__name__}>" if type(value).__repr__ is object.__repr__ else _ADDRESS.sub("", repr(value))


def call_text(name: str, args: Sequence[object], kwargs: _Pairs) -> str:
    """`name(1, key=2)`."""
    return f"{name}({', '.join([*map(expression, args), *(f'{k}={expression(v)}' for k, v in kwargs)])})"


def _pairs(kwargs: Mapping[str, Any] | _Pairs) -> _Pairs:
    return tuple(sorted(dict(kwargs).items()))


def declared(value: object, what: str) -> frozenset[str]:
    """What a value says it `needs` or `gives`; nothing when it says nothing.

    Examples:
        >>> declared(len, "needs")
        frozenset()
    """
    found = getattr(value, what, None)
    return cast("frozenset[str]", found) if isinstance(found, frozenset) else frozenset()


@final
@attrs.frozen(eq=False, repr=False)
class Call:
    """A function and arguments for it; `call(*leading)` puts the arguments it waits for in front of them.

    Two calls are equal when function and arguments are, and `repr` is the expression that builds the call.

    Examples:
        >>> half = Call(max, (2,), {"key": abs}, "largest")
        >>> half
        largest(2, key=abs)
        >>> half(-3)
        -3
        >>> half == Call(max, (2,), {"key": abs}, "largest"), half == Call(max, (3,))
        (True, False)

    Args:
        fn: the function.
        args: positional arguments, after the leading ones.
        kwargs: keyword arguments, a mapping or pairs; their order does not matter.
        name: what `repr` prints; by default the function's own name.
        factory: what made this call, if it was made by calling a lifted function.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    kwargs: _Pairs = attrs.field(default=(), converter=_pairs)
    name: str = attrs.field(default=attrs.Factory(lambda self: expression(self.fn), takes_self=True))
    factory: Any = attrs.field(default=None, kw_only=True, eq=False)

    def __call__(self, *leading: Any) -> Any:
        """Call the function with the leading arguments and these."""
        return self.fn(*leading, *self.args, **dict(self.kwargs))

    @property
    def needs(self) -> frozenset[str]:
        """What has to be there before the call: what its function and its arguments say they need."""
        values = (self.fn, *self._given)
        return self._of_factory("needs").union(*(declared(value, "needs") for value in values))

    @property
    def couples(self) -> bool:
        """Whether it prunes by the couplings of the model: an allocation among its arguments needs the structure."""
        pruner = getattr(self.factory, "lifts", None) == "pruner"
        return pruner and any("structure" in declared(value, "needs") for value in self._given)

    @property
    def _given(self) -> tuple[Any, ...]:
        return (*self.args, *(value for _, value in self.kwargs))

    def foresees(self, structure: Any, plan: Any) -> dict[str, str]:
        """What its arguments say of the layers that will not lose what a plan asks of them: layer -> why."""
        found = [cast("Callable[[Any, Any], dict[str, str]] | None", getattr(v, "foresees", None)) for v in self._given]
        told = [tell(structure, plan) for tell in found if tell is not None]
        return {name: why for one in told for name, why in one.items()}

    def refuses(self, scope: Any, config: Any) -> None:
        """Let its arguments refuse what a config asks of them, where shapes tell that it cannot be."""
        for value in (*self.args, *(value for _, value in self.kwargs)):
            refuse = cast("Callable[[Any, Any], None] | None", getattr(value, "refuses", None))
            if refuse is not None:
                refuse(scope, config)

    @property
    def gives(self) -> frozenset[str]:
        """What is there after the call, e.g. `masks`."""
        return self._of_factory("gives")

    @property
    def reads(self) -> str:
        """What its outcome depends on: `tensors`, the `record`, or the `world` outside."""
        told: Any = getattr(self.factory, "reads", "record")
        return cast(str, told(*self.args, **dict(self.kwargs)) if callable(told) else told)

    @property
    def key_parts(self) -> tuple[Callable[..., Any], Mapping[str, Any], object]:
        """What a key is made of: the function, its options with the defaults filled in, and how it was lifted."""
        bound = inspect.signature(self.factory).bind(*self.args, **dict(self.kwargs))
        bound.apply_defaults()
        return self.fn, bound.arguments, (self.factory.lifts, self.factory.regrows)

    def _of_factory(self, what: str) -> frozenset[str]:
        """What the lifted function was declared with: a set, or a function of the options."""
        told: Any = getattr(self.factory, what, ())
        return frozenset(cast("Iterable[str]", told(*self.args, **dict(self.kwargs)) if callable(told) else told))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        mine, theirs = (self.name, self.args, self.kwargs), (other.name, other.args, other.kwargs)
        return self is other or (self.fn == other.fn and same(mine, theirs))

    def __hash__(self) -> int:
        # Arguments compare by value, which their own hashes (a module's, say) do not follow; how many there are does.
        return hash((self.fn, self.name, len(self.args), tuple(name for name, _ in self.kwargs)))

    def __repr__(self) -> str:
        return call_text(self.name, self.args, self.kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # The name of a lifted function leads to its factory, so it is the factory that is pickled (by name).
        if self.factory is not None:
            return _rebuild, (self.factory, self.args, self.kwargs)
        return Call, (self.fn, self.args, self.kwargs, self.name)


def _rebuild(factory: Any, args: tuple[Any, ...], kwargs: _Pairs) -> Call:
    return factory.call(*args, **dict(kwargs))


def bind(fn: Callable[..., Any], leading: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `TypeError`, as Python words it, when `fn` cannot be called with `leading` values and these arguments."""
    inspect.signature(fn).bind(*([None] * leading), *args, **kwargs)
