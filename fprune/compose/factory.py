"""What a lifted function becomes: something to call with options, that remembers the pure function."""

import inspect
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec, TypeVar, final, get_args

from fprune.compose.call import Call, bind, expression
from fprune.compose.refuse import refusal
from fprune.errors import CompositionError

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

Declared = Iterable[str] | Callable[..., Iterable[str]]
Lifts = Literal["stage", "pruner", "schedule"]
Reads = Literal["tensors", "record", "world", "nothing"]
NAMED_NEEDS = frozenset({"masks", "score", "example_inputs", "structure"})
"""The closed set that `needs` and `gives` are drawn from."""


@final
class Factory(Generic[P, R_co]):
    """A lifted function: called with its options it gives a stage or a schedule; `.fn` is the function itself.

    The options are checked against the function's signature when the expression is written, so a missing or
    misspelt one is an error at that place and not in the middle of a run. Made by `@stage`, `@pruner`, `@schedule`.

    Args:
        fn: the function.
        build: makes the stage or schedule from the call.
        lifts: what kind of function it is.
        leading: how many arguments a run fills in before the options.
        needs: what has to be there before, from `masks, score, example_inputs, structure`; or a function of the
            options that says so.
        gives: what is there afterwards, likewise.
        check: called with the options when the expression is written; raises when they make no sense.
        regrows: whether the masks of a pruner take the place of the inherited ones.
        reads: what its outcome depends on, as in `stage`; or a function of the options that says so.
    """

    kind: ClassVar[str] = "factory"

    def __init__(
        self,
        fn: Callable[..., Any],
        build: Callable[[Call], R_co],
        *,
        lifts: Lifts,
        leading: int = 1,
        needs: Declared = (),
        gives: Declared = (),
        check: Callable[..., object] | None = None,
        regrows: bool = False,
        reads: Reads | Callable[..., Reads] = "record",
    ) -> None:
        update_wrapper(self, fn)
        signature = inspect.signature(fn)
        options = list(signature.parameters.values())[leading:]
        self.fn, self.build, self.lifts, self.leading, self.check = fn, build, lifts, leading, check
        self.needs = needs if callable(needs) else _named(needs)
        self.gives = gives if callable(gives) else _named(gives)
        self.regrows, self.reads = regrows, reads if callable(reads) else _known(reads)
        self.__signature__ = signature.replace(parameters=options, return_annotation=inspect.Signature.empty)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The stage or schedule with these options."""
        return self.build(self.call(*args, **kwargs))

    def call(self, *args: Any, **kwargs: Any) -> Call:
        """The checked call that a stage or schedule is built from."""
        try:
            bind(self.fn, self.leading, args, kwargs)
        except TypeError as error:
            hint = f"its options are {self!r}({_options(self.__signature__)})"
            raise CompositionError(f"{self!r}: {error}", hint=hint) from None
        if self.lifts == "pruner":
            _check_allocation(self, args, kwargs)
        if self.check is not None:
            self.check(*args, **kwargs)
        return Call(self.fn, args, kwargs, repr(self), factory=self)

    def __repr__(self) -> str:
        return self.fn.__name__

    def __reduce__(self) -> str:
        return self.fn.__qualname__

    if not TYPE_CHECKING:  # a type checker reports `l1 | level()` because there is no such operator

        def __or__(self, other: object) -> Any:
            raise refusal(self, other)

        def __ror__(self, other: object) -> Any:
            raise refusal(other, self)


def _check_allocation(factory: Factory[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse an `allocation` that cannot be called as one, such as a name in quotes or `n_m` without its numbers."""
    given = factory.__signature__.bind(*args, **kwargs).arguments
    if "allocation" not in given:
        return
    found = given["allocation"]
    what = f"{factory!r}: allocation: expected a function of (criterion, params, config), got {expression(found)}"
    if not callable(found):
        hint = "per_layer, globally, dependency_aware, ...; how much goes is said by the config: run(net, 0.5)"
        raise CompositionError(what, hint=hint)
    try:
        bind(found, 3, (), {})
    except TypeError:
        made = f"{expression(found)}({_options(inspect.signature(found))})"
        raise CompositionError(what, hint=f"call it with its options: {made}") from None
    except ValueError:  # a function of C has no signature to read
        return


def _named(names: Iterable[str]) -> frozenset[str]:
    found = frozenset([names] if isinstance(names, str) else names)
    if found - NAMED_NEEDS:
        unknown = sorted(found - NAMED_NEEDS)
        raise CompositionError(f"unknown needs or gives {unknown}", hint=f"they are drawn from {sorted(NAMED_NEEDS)}")
    return found


def _known(reads: Reads) -> Reads:
    if reads not in get_args(Reads):
        raise CompositionError(f"unknown reads {reads!r}", hint=f"it is one of {', '.join(get_args(Reads))}")
    return reads


def _options(signature: inspect.Signature) -> str:
    """The parameters as they are called, without their types: `loss, batches, *, rounds=10`."""
    parts: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={expression(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{default}")
    return ", ".join(parts)
