"""The one place that says why two things cannot be joined by `|`, and what to write in their place."""

from fprune.compose.call import expression
from fprune.errors import CompositionError


def kind_of(value: object) -> str:
    """What a value is in an expression: a stage, schedule, pipeline, factory, function, or its type's name.

    Examples:
        >>> kind_of(len), kind_of(3)
        ('function', 'int')
    """
    kind: object = getattr(value, "kind", None)
    if isinstance(kind, str) and kind in ("stage", "schedule", "pipeline", "factory"):
        return kind
    return "function" if callable(value) else type(value).__name__


def refusal(left: object, right: object) -> CompositionError:
    """The error for `left | right`, with a hint that fits the two.

    Examples:
        >>> print(refusal(3, 4).message)
        3 | 4: `|` joins a schedule and stages, found int and int
    """
    kinds = kind_of(left), kind_of(right)
    one, two = expression(left), expression(right)
    message = f"{one} | {two}: `|` joins a schedule and stages, found {kinds[0]} and {kinds[1]}"
    if "factory" in kinds:
        name = one if kinds[0] == "factory" else two
        hint = f"call it: {name}()"
    elif "function" in kinds:
        name = one if kinds[0] == "function" else two
        hint = f"lift {name} with @stage or @pruner, or wrap it: finetune({name}), evaluate({name}), tap({name})"
    elif kinds == ("schedule", "schedule"):
        hint = f"one after the other: {one}.then({two})"
    elif kinds[1] == "schedule":
        hint = f"the schedule comes first: {two} | ..."
    elif kinds[1] == "pipeline":
        hint = f"a pipeline stands where a stage stands as nested({two})"
    else:
        hint = "build stages with level(), finetune(fn), evaluate(fn), ... and schedules with agp(rounds), ..."
    return CompositionError(message, hint=hint)
