"""Where the sizes in a program come from: expressions over module attributes and sizes of values."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs


@attrs.frozen
class Attribute:
    """An integer read from a module, such as `num_heads`.

    Args:
        path: the module.
        key: its attribute.
        at: the position in it when it is a tuple or list, the field when it is an object, else None.
    """

    path: str
    key: str
    at: int | str | None = None

    def __str__(self) -> str:
        """How the attribute is written."""
        place = "" if self.at is None else f".{self.at}" if isinstance(self.at, str) else f"[{self.at}]"
        return f"{self.path}.{self.key}".lstrip(".") + place


@attrs.frozen
class Size:
    """The size of a value's dimension, as `x.shape[1]` gives it."""

    value: int
    dim: int

    def __str__(self) -> str:
        """How the size is written."""
        return f"%{self.value}.shape[{self.dim}]"


@attrs.frozen
class Combined:
    """Two expressions and what was done with them."""

    symbol: str
    left: "Expression"
    right: "Expression"

    def __str__(self) -> str:
        """Infix."""
        return f"({self.left} {self.symbol} {self.right})"


Expression: TypeAlias = int | Attribute | Size | Combined

OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": lambda a, b: a // b,  # the stub of operator.floordiv is untyped
}


Value: TypeAlias = Callable[[Attribute | Size], int]


def leaves(expression: Expression) -> list[Attribute | Size]:
    """What an expression was made from, each once."""
    if isinstance(expression, Combined):
        return list(dict.fromkeys([*leaves(expression.left), *leaves(expression.right)]))
    return [] if isinstance(expression, int) else [expression]


def sizes_in(expression: Expression) -> list[Size]:
    """The sizes of values that an expression reads, each once."""
    return [leaf for leaf in leaves(expression) if isinstance(leaf, Size)]


def evaluated(expression: Expression, value: Value) -> int | None:
    """What an expression comes to; None when it divides by zero."""
    if isinstance(expression, int):
        return expression
    if not isinstance(expression, Combined):
        return value(expression)
    left, right = evaluated(expression.left, value), evaluated(expression.right, value)
    if left is None or right is None or (expression.symbol == "//" and right == 0):
        return None
    return OPERATORS[expression.symbol](left, right)


def factors(expression: Expression) -> list[Expression]:
    """The factors of a product; any other expression is its own only factor."""
    if isinstance(expression, Combined) and expression.symbol == "*":
        return [*factors(expression.left), *factors(expression.right)]
    return [expression]


def resized(n: int, expression: Expression | None, recorded: Value, actual: Value) -> int:
    """The size that an argument of `n` has when shapes are others than those recorded.

    Args:
        n: the size in the program.
        expression: where it was read.
        recorded: what each leaf is in the program.
        actual: what it is now.
    """
    if expression is None or n == -1:
        return n
    if evaluated(expression, recorded) == n:
        return evaluated(expression, actual) or n
    if (part := fraction(n, expression, recorded)) is not None:
        return actual(part[0]) // part[1]
    rest, sizes = cofactor(n, [factor for factor in factors(expression) if isinstance(factor, Size)], recorded)
    return rest * math.prod(map(actual, sizes))


def fraction(n: int, expression: Expression, recorded: Value) -> tuple[Size, int] | None:
    """A size and what divides it, for a size divided by a number that surgery changed, such as that of the heads."""
    if not isinstance(expression, Combined) or expression.symbol != "//" or not isinstance(expression.left, Size):
        return None
    divisor, remainder = divmod(recorded(expression.left), n) if n else (0, 1)
    return None if remainder or divisor == 0 else (expression.left, divisor)


def cofactor(n: int, sizes: Sequence[Size], recorded: Value) -> tuple[int, Sequence[Size]]:
    """What is left of a product of which some factors are sizes: after surgery the others are a number."""
    rest, remainder = divmod(n, math.prod(map(recorded, sizes)))
    return (n, ()) if remainder else (rest, sizes)
