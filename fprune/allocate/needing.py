"""Allocations that are more than a function of scores: what they need, what they foresee and what they refuse."""

import functools
from collections.abc import Callable, Mapping
from typing import final

from torch import Tensor

from fprune.config import Config
from fprune.criteria import Criterion
from fprune.masks import Masks
from fprune.plan import Plan
from fprune.scope import Scope
from fprune.structure import Structure

__all__ = ["Needing", "needing"]


def _nothing(scope: Scope, config: Config) -> None:
    """Refuse nothing."""


@final
class Needing:
    """An allocation with a declaration of what it needs; called, printed and compared like the function it wraps."""

    def __init__(
        self,
        fn: Callable[[Criterion, Mapping[str, Tensor], Config], Masks],
        needs: frozenset[str],
        foresees: Callable[[Structure, Plan], Mapping[str, str]] | None,
        refuses: Callable[[Scope, Config], None],
    ) -> None:
        """Wrap a function."""
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.needs = needs
        self.foresees = foresees
        self.refuses = refuses

    def __call__(self, criterion: Criterion, params: Mapping[str, Tensor], config: Config, /) -> Masks:
        """Allocate."""
        return self.fn(criterion, params, config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Needing) and (self.fn, self.needs) == (other.fn, other.needs)

    def __hash__(self) -> int:
        return hash(self.fn)

    def __repr__(self) -> str:
        return self.fn.__name__

    def __reduce__(self) -> str:
        return self.fn.__qualname__  # the name leads to this wrapper, not to the function inside


def needing(
    *what: str,
    foresees: Callable[[Structure, Plan], Mapping[str, str]] | None = None,
    refuses: Callable[[Scope, Config], None] = _nothing,
) -> Callable[[Callable[[Criterion, Mapping[str, Tensor], Config], Masks]], Needing]:
    """Declare what an allocation wants besides parameters; a pruner that takes it wants the same.

    Examples:
        >>> @needing("structure")
        ... def whole(criterion, params, config):
        ...     return Masks()
        >>> whole, sorted(whole.needs)
        (whole, ['structure'])

    Args:
        what: drawn from `masks`, `score`, `example_inputs`, `structure`.
        foresees: says of a structure and a plan which selected layers will not lose what was asked, and why.
        refuses: raises, before a run begins, what the allocation would raise in it for a config.
    """
    return lambda fn: Needing(fn, frozenset(what), foresees, refuses)
