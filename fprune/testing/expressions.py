"""Read the expression of a pipeline, as far as pipelines are expressions: names, calls, `|`, and plain values."""

import ast
from collections.abc import Mapping
from typing import Any

from fprune import allocate, pruners, schedules, stages
from fprune.compose import Pipeline, Schedule, Stage
from fprune.compose.call import expression
from fprune.errors import CompositionError

_PUBLIC = {**vars(allocate), **vars(pruners), **vars(schedules), **vars(stages)}


def read(text: str, names: Mapping[str, Any]) -> Any:
    """Build what an expression of names, calls, attributes of calls, `|` and plain values says.

    Examples:
        >>> from fprune import agp, level
        >>> read("agp(3) | level()", {"agp": agp, "level": level}) == agp(3) | level()
        True

    Args:
        text: the expression.
        names: what its names stand for.

    Returns:
        The value.

    Raises:
        CompositionError: it is no such expression, or a name is not known.
    """
    try:
        return _value(ast.parse(text, mode="eval").body, names)
    except SyntaxError as error:
        raise CompositionError(f"{text!r} is no expression: {error.msg}") from error


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name not in names:
                raise CompositionError(f"the name {name!r} is not known", hint="pass it: names={...}")
            return names[name]
        case ast.Attribute(value=value, attr=attr) if attr in ("then", "until"):
            return getattr(_value(value, names), attr)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _value(left, names) | _value(right, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.Tuple(elts=elements):
            return tuple(_value(element, names) for element in elements)
        case ast.List(elts=elements):
            return [_value(element, names) for element in elements]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_value(key, names): _value(value, names) for key, value in pairs if key is not None}
        case ast.Call(func=func, args=args, keywords=keywords):
            named = {keyword.arg: _value(keyword.value, names) for keyword in keywords if keyword.arg is not None}
            return _value(func, names)(*(_value(arg, names) for arg in args), **named)
        case _:
            raise CompositionError(f"{ast.unparse(node)!r} is no part of a pipeline's expression")


def known_names(value: Pipeline | Schedule | Stage) -> dict[str, Any]:
    """The functions that a pipeline is made of, by the names that its expression has for them."""
    stage = value.stage if isinstance(value, Pipeline) else value
    schedule = value.schedule if isinstance(value, Pipeline) else value
    calls = (
        *(stage.calls if isinstance(stage, Stage) else ()),
        *(schedule.calls if isinstance(schedule, Schedule) else ()),
    )
    found: dict[str, Any] = {**_PUBLIC, "Stage": Stage}
    for call in calls:
        found[call.name] = call.factory
        for given in (*call.args, *(option for _, option in call.kwargs)):
            if isinstance(given, Pipeline | Schedule | Stage):
                found |= known_names(given)
            elif not callable(given):
                found.setdefault(type(given).__name__, type(given))
            else:
                found.setdefault(
                    expression(given).partition("(")[0], given if hasattr(given, "__name__") else type(given)
                )
    return found
