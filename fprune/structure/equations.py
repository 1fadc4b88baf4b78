"""Products of tensors as equations: a letter for each dimension, the same letter where two dimensions meet."""

from collections.abc import Mapping
from math import prod
from string import ascii_letters
from typing import Any

import attrs

from fprune.structure.arguments import listed

FACTORS: Mapping[str, tuple[str, str]] = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
    "inner": ("self", "other"),
    "outer": ("self", "vec2"),
    "ger": ("self", "vec2"),
    "tensordot": ("self", "other"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
}
"""Operator -> the names of the two tensors it multiplies; `einsum` multiplies a list."""


@attrs.frozen
class Equation:
    """Which dimensions of the factors meet, and which come out.

    Examples:
        >>> equation("matmul", {}, (3, 2)).text
        'abc,cd->abd'

    Args:
        factors: one letter for each dimension of each factor.
        out: the letters that are left; the others are summed.
    """

    factors: tuple[str, ...]
    out: str

    @property
    def text(self) -> str:
        """As `torch.einsum` reads it."""
        return f"{','.join(self.factors)}->{self.out}"

    @property
    def summed(self) -> tuple[str, ...]:
        """The letters that do not come out, in order."""
        return tuple(dict.fromkeys(x for factor in self.factors for x in factor if x not in self.out))

    def sizes(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """The size of each letter; a factor may have a size of 1 where another has more."""
        out: dict[str, int] = {}
        for letters, shape in zip(self.factors, shapes, strict=True):
            for letter, n in zip(letters, shape, strict=True):
                out[letter] = n if out.get(letter, 1) == 1 else out[letter]
        return out


def factors(name: str, bound: Mapping[str, Any]) -> list[Any]:
    """The arguments that are multiplied."""
    return list(bound["tensors"]) if name == "einsum" else [bound[argument] for argument in FACTORS[name]]


def equation(name: str, bound: Mapping[str, Any], ndims: tuple[int, ...]) -> Equation | None:
    """The equation of a product.

    Args:
        name: the operator, `einsum` or one of `FACTORS`.
        bound: its arguments; only those that are no tensors are read.
        ndims: how many dimensions each factor has.

    Returns:
        The equation; None for an einsum that takes a diagonal or sums what it calls `...`.
    """
    if name == "einsum":
        return _einsum(bound["equation"].replace(" ", ""), ndims)
    a, b = ndims
    if name in ("outer", "ger"):
        return Equation(("a", "b"), "ab")
    if name == "inner":
        lead, k = ascii_letters[: a + b - 2], "Z"
        return Equation((lead[: a - 1] + k, lead[a - 1 :] + k), lead) if a and b else None
    if name == "tensordot":
        return _tensordot(bound, a, b)
    lead = ascii_letters[: max(a - 2, b - 2, 0)]
    row, k, column = ascii_letters[len(lead) : len(lead) + 3]
    left = lead[len(lead) - (a - 2) :] + row + k if a > 1 else k
    right = lead[len(lead) - (b - 2) :] + k + column if b > 1 else k
    out = (row if a > 1 else "") + (column if b > 1 else "")
    return Equation((left, right), out if name == "addbmm" else lead + out)


def _tensordot(bound: Mapping[str, Any], a: int, b: int) -> Equation:
    left, right = list(ascii_letters[:a]), list(ascii_letters[a : a + b])
    for i, j in zip(listed(bound["dims_self"]), listed(bound["dims_other"]), strict=True):
        right[j] = left[i]
    out = [x for x in left if x not in right] + [x for x in right if x not in left]
    return Equation(("".join(left), "".join(right)), "".join(out))


def _einsum(text: str, ndims: tuple[int, ...]) -> Equation | None:
    given, arrow, out = text.partition("->")
    named = given.split(",")
    if not arrow:
        once = sorted(x for x in set(given) - set(",.") if given.count(x) == 1)
        out = ("..." if "..." in given else "") + "".join(once)
    if any(len(set(t.replace("...", ""))) < len(t.replace("...", "")) for t in named):
        return None
    spread = [n - len(t.replace("...", "")) if "..." in t else 0 for t, n in zip(named, ndims, strict=True)]
    widest = max(spread)
    if widest and "..." not in out:
        return None
    fresh = "".join(x for x in ascii_letters if x not in text)[:widest]
    terms = [t.replace("...", fresh[widest - n :]) for t, n in zip(named, spread, strict=True)]
    return Equation(tuple(terms), out.replace("...", fresh))


def repeats(eq: Equation, shapes: tuple[tuple[int, ...], ...], told: tuple[tuple[int, ...], ...]) -> int:
    """How often each term of a sum occurs, when `told` are the factors' sizes with what only repeats cut down to 1."""
    full, short = eq.sizes(shapes), eq.sizes(told)
    return prod(full[letter] for letter in eq.summed if short[letter] == 1)
