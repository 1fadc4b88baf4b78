"""Where the sizes in a program come from: integers that remember the module attribute they were read from.

While a forward pass is recorded, the integer attributes of a private copy of the model are replaced by `TracedInt`s. A
function mode sees them in the arguments of torch's functions before they become plain numbers. After surgery every size
that changed gives an equation, expression = new size, and the attributes are what solves them.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from torch import nn
from torch.overrides import TorchFunctionMode

from fprune.errors import StructureError
from fprune.structure.arguments import entries

Where: TypeAlias = tuple[str, str, int]
"""A module's path, its attribute, and the position in it when it is a tuple or list (else -1)."""
Expression: TypeAlias = "int | Where | tuple[str, Expression, Expression]"
_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": lambda a, b: a // b,  # the stub of operator.floordiv is untyped
}


class TracedInt(int):
    """An integer that knows the expression it came from."""

    expression: Any

    def __new__(cls, value: int, expression: Any) -> "TracedInt":
        """An integer with its expression."""
        self = super().__new__(cls, value)
        self.expression = expression
        return self

    def __add__(self, other: Any) -> Any:
        return _combined("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return _combined("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return _combined("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _combined("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return _combined("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _combined("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _combined("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _combined("//", other, self)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)


def _combined(symbol: str, a: Any, b: Any) -> Any:
    plain = [int(x) if isinstance(x, TracedInt) else x for x in (a, b)]
    value: Any = _OPERATORS[symbol](*plain)
    if type(value) is not int:
        return value
    return TracedInt(value, (symbol, _expression(a), _expression(b)))


def _expression(x: Any) -> Any:
    return x.expression if isinstance(x, TracedInt) else x


def trace_attributes(net: nn.Module) -> None:
    """Replace the integer attributes of a private copy by traced ones; torch's own layers are left alone."""
    for path, module in cast("Iterable[tuple[str, nn.Module]]", net.named_modules()):
        if type(module).__module__.startswith("torch."):
            continue
        for key, value in list(vars(module).items()):
            if not key.startswith("_") and key != "training":
                traced = _traced(value, path, key)
                if traced is not None:
                    put(module, key, traced)


def _traced(value: Any, path: str, key: str) -> Any:
    if type(value) is int:
        return TracedInt(value, (path, key, -1)) if value > 1 else None
    if type(value) in (tuple, list) and value and all(type(n) is int for n in value):
        return type(value)(TracedInt(n, (path, key, i)) if n > 1 else n for i, n in enumerate(value))
    return None


def put(module: nn.Module, key: str, value: Any) -> None:
    """Write a plain attribute of a module that nobody else holds."""
    vars(module).update({key: value})


class Watch(TorchFunctionMode):
    """Notes the traced integers among the arguments of the torch function that is running."""

    def __init__(self) -> None:
        """Nothing running yet."""
        super().__init__()
        self._running: list[dict[int, Any]] = [{}]

    @property
    def sources(self) -> Mapping[int, Any]:
        """Value -> expression, for the call that is running."""
        return self._running[-1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the call happen with its traced integers on record."""
        kwargs = kwargs or {}
        self._running.append({int(n): n.expression for n in _traced_in((args, kwargs))})
        try:
            return func(*args, **kwargs)
        finally:
            self._running.pop()


def _traced_in(tree: Any) -> Iterator[TracedInt]:
    for entry in entries(tree):
        if isinstance(entry, TracedInt):
            yield entry
        elif isinstance(entry, slice):
            yield from _traced_in((entry.start, entry.stop, entry.step))


def solved(equations: Iterable[tuple[Any, int]], old: Mapping[Where, int]) -> dict[Where, int]:
    """The attribute values under which the expressions have their new sizes.

    An equation whose plain numbers came from a tensor's shape may have no solution, and needs none: the shape adapts by
    itself. Whether the values are right is for the verification to say.

    Args:
        equations: expressions with the sizes they have to give.
        old: the attributes' present values.

    Raises:
        StructureError: one attribute would need two values.
    """
    new: dict[Where, int] = {}
    pending = list(equations)
    for expression, size in pending:
        if _is_where(expression) and new.setdefault(expression, size) != size:
            raise StructureError(f"{_told(expression)} would have to be both {new[expression]} and {size}")
    for expression, size in pending:
        unknown = [where for where in attributes(expression) if where not in new]
        if len(unknown) == 1:
            values = {**old, **new}
            fits = (n for n in range(1, old[unknown[0]] + 1) if _value(expression, {**values, unknown[0]: n}) == size)
            found = next(fits, None)
            if found is not None:
                new[unknown[0]] = found
    return new


def has_literal(expression: Any) -> bool:
    """Whether a plain number takes part: written in the code, or read from a tensor's shape."""
    if _is_where(expression):
        return False
    return not isinstance(expression, tuple) or has_literal(expression[1]) or has_literal(expression[2])


def _told(where: Where) -> str:
    path, key, at = where
    return f"{path}.{key}".lstrip(".") + (f"[{at}]" if at >= 0 else "")


def _is_where(expression: Any) -> bool:
    return isinstance(expression, tuple) and isinstance(expression[2], int) and isinstance(expression[1], str)


def attributes(expression: Any) -> list[Where]:
    """The attributes an expression was made from, each once."""
    if _is_where(expression):
        return [expression]
    if isinstance(expression, tuple):
        return list(dict.fromkeys([*attributes(expression[1]), *attributes(expression[2])]))
    return []


def _value(expression: Any, values: Mapping[Where, int]) -> int:
    if _is_where(expression):
        return values[expression]
    if isinstance(expression, tuple):
        symbol, a, b = cast("tuple[str, Any, Any]", expression)
        return _OPERATORS[symbol](_value(a, values), _value(b, values))
    return expression
