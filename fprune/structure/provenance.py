"""Integers that remember where they were read: an attribute of a module, or the shape of a tensor.

While a forward pass is recorded, the integer attributes of a private copy of the model are `TracedInt`s, and so are the
sizes that `x.shape` and `x.size()` give. A function mode sees them in the arguments of torch's functions before they
become plain numbers: the program knows not only that a view has size 12 but that 12 is `x.shape[2] // num_heads`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fprune.equality import is_record
from fprune.structure.arguments import entries
from fprune.structure.expressions import OPERATORS, Attribute, Combined, Expression, Size

Given: TypeAlias = list[tuple[int, Expression | None]]
"""The integers among the arguments of a call, in order, each with its expression if it has one."""


class TracedInt(int):
    """An integer that knows the expression it came from."""

    expression: Expression

    def __new__(cls, value: int, expression: Expression) -> "TracedInt":
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

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


def _combined(symbol: str, a: Any, b: Any) -> Any:
    plain = [int(x) if isinstance(x, TracedInt) else x for x in (a, b)]
    value: Any = OPERATORS[symbol](*plain)
    if type(value) is not int:
        return value
    return TracedInt(value, Combined(symbol, _expression(a), _expression(b)))


def _expression(x: Any) -> Any:
    return x.expression if isinstance(x, TracedInt) else x


def trace_attributes(net: nn.Module, original: nn.Module) -> dict[Attribute, int]:
    """Replace the integer attributes of a private copy by traced ones; torch's own layers are left alone.

    Args:
        net: the copy.
        original: what it was copied from: an object that both hold is not private, and is left alone too.

    Returns:
        The attributes and their values.
    """
    found: dict[Attribute, int] = {}

    def mark(value: Any, *where: Any) -> Any:
        if type(value) is not int or value < 2:  # what has one entry never loses it
            return value
        attribute = Attribute(*where)
        found[attribute] = value
        return TracedInt(value, attribute)

    seen: set[int] = set()
    pairs = zip(_named(net), _named(original), strict=True)
    for (path, module), (_, twin) in pairs:
        if type(module).__module__.startswith("torch."):
            continue
        for key, value in list(vars(module).items()):
            if key.startswith("_") or key == "training":
                continue
            if type(value) in (int, tuple, list):
                put(module, key, _traced(value, mark, path, key))
            elif value is not vars(twin).get(key) and id(value) not in seen and is_record(value):
                seen.add(id(value))
                fields = cast("dict[str, Any]", vars(value))
                fields.update({k: mark(v, path, key, k) for k, v in fields.items()})
    return found


def _named(net: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return cast("Iterable[tuple[str, nn.Module]]", net.named_modules())


def _traced(value: Any, mark: Callable[..., Any], path: str, key: str) -> Any:
    if type(value) is int:
        return mark(value, path, key)
    if value and all(type(n) is int for n in value):
        return type(value)(mark(n, path, key, i) for i, n in enumerate(value))
    return value


def write(module: nn.Module, where: Attribute, size: int) -> None:
    """Give an attribute of a private module another value."""
    value = vars(module)[where.key]
    if isinstance(where.at, str):
        vars(value).update({where.at: size})
    elif where.at is None:
        put(module, where.key, size)
    else:
        put(module, where.key, type(value)(size if i == where.at else n for i, n in enumerate(value)))


def put(module: nn.Module, key: str, value: Any) -> None:
    """Write a plain attribute of a module that nobody else holds."""
    vars(module).update({key: value})


_SHAPE: Any = cast("Any", torch.Tensor.shape).__get__
_SIZE: Any = torch.Tensor.size
_WRITE: Any = torch.Tensor.__setitem__
_INDEXING: tuple[Any, ...] = (torch.Tensor.__getitem__, _WRITE)
_COUNTS: tuple[Any, ...] = (torch.Tensor.__len__, torch.Tensor.numel, torch.Tensor.nelement)


class Watch(TorchFunctionMode):
    """Notes the integers among the arguments of the torch function that is running, and traces sizes that are read.

    Args:
        number: the number of a tensor's value in the program, or None; called whenever a size is asked for.
    """

    def __init__(self, number: Callable[[Tensor], int | None]) -> None:
        """Nothing running yet."""
        super().__init__()
        self._number = number
        self._running: list[Given] = [[]]
        self._counted: list[int | None] = []
        self._functions: list[Any] = [None]

    @property
    def given(self) -> Given:
        """The integers given to the call that is running; empty if none of them is traced."""
        return self._running[-1]

    @property
    def counts(self) -> bool:
        """Whether a size was read in a way that gives a plain number, such as `len(x)`."""
        return bool(self._counted)

    @property
    def hides(self) -> bool:
        """Whether the call that is running reads sizes by itself, unseen: it is written in Python, or fits a value."""
        return isinstance(self._functions[-1], FunctionType) or self._functions[-1] is _WRITE

    @property
    def hands_over(self) -> bool:
        """Whether a number that is looked at now reaches the user's code: in indexing it stays inside torch."""
        return self._functions[-1] not in _INDEXING

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the call happen with its integers on record."""
        kwargs = kwargs or {}
        if func in (_SHAPE, _SIZE):
            return self._sized(args[0], func(*args, **kwargs), *args[1:], **kwargs)
        if func in _COUNTS:
            self._counted.append(self._number(args[0]))
        given = list(_integers((args, kwargs)))
        self._running.append(given if any(expression is not None for _, expression in given) else [])
        self._functions.append(func)
        try:
            return func(*args, **kwargs)
        finally:
            self._running.pop()
            self._functions.pop()

    def _sized(self, tensor: Tensor, result: Any, dim: Any = None) -> Any:
        number = self._number(tensor)
        if number is None:
            return result
        if isinstance(result, torch.Size):
            return torch.Size(TracedInt(n, Size(number, d)) for d, n in enumerate(result))
        return TracedInt(result, Size(number, int(dim) % tensor.ndim))


def _integers(tree: Any) -> Iterator[tuple[int, Expression | None]]:
    for entry in entries(tree):
        if isinstance(entry, TracedInt):
            yield int(entry), entry.expression
        elif type(entry) is int:
            yield entry, None
        elif isinstance(entry, slice):
            yield from _integers((entry.start, entry.stop, entry.step))


def sources(sizes: Sequence[Any], given: Given) -> tuple[Expression | None, ...]:
    """The expression behind each entry of a size argument, None for a number written in the code.

    Entries are matched by position where the sizes occur among the given integers in the same order, else by value,
    and only if all integers of that value have the same expression.

    Args:
        sizes: the argument as the operator received it.
        given: the integers as the function was called with them.
    """
    values, k = [value for value, _ in given], len(sizes)
    runs = [i for i in range(len(values) - k + 1) if values[i : i + k] == list(sizes)]
    found = {tuple(expression for _, expression in given[i : i + k]) for i in runs}
    if len(found) == 1:
        return found.pop()
    return tuple(_unanimous(size, given) for size in sizes)


def _unanimous(size: Any, given: Given) -> Expression | None:
    found = {expression for value, expression in given if value == size} if type(size) is int else set[Any]()
    return found.pop() if len(found) == 1 else None
