"""The functions that run the laws on a piece of the user's."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from fprune.compose import Pipeline, Schedule, Stage
from fprune.config import Config, ConfigLike
from fprune.errors import ConfigTypeError, close_matches
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.testing import pipeline_laws, pruner_laws, schedule_laws, stage_laws, symmetry_laws
from fprune.testing.law import Kind, Law, Piece
from fprune.testing.search import search

LAWS: tuple[Law, ...] = (
    *pruner_laws.LAWS,
    *symmetry_laws.LAWS,
    *schedule_laws.LAWS,
    *stage_laws.LAWS,
    *pipeline_laws.LAWS,
)
"""Every law, in the order in which they are tried."""


def chosen(
    piece: Piece, kind: Kind, laws: Iterable[str] | None, also: Collection[str], skip: Collection[str]
) -> list[Law]:
    """The laws to try.

    Raises:
        ConfigTypeError: a name is not that of a law.
    """
    known = {law.name: law for law in LAWS if law.kind == kind}
    named = None if laws is None else frozenset(laws)
    for name in (*(named or ()), *also, *skip):
        if name not in known:
            hint = close_matches(name, known) or f"they are {', '.join(known)}"
            raise ConfigTypeError(f"there is no law {name!r} of a {kind}", hint=hint)
    found: list[Law] = []
    for law in known.values():
        wanted = law.name in named if named is not None else (not law.asked or law.name in also)
        if wanted and law.name not in skip and law.applies(piece):
            found.append(law)
    return found


def check_pruner(
    pruner: Stage,
    *,
    model: nn.Module | Model | None = None,
    config: ConfigLike | None = None,
    example_inputs: object = None,
    scores: Callable[[Any], Mapping[str, Tensor]] | None = None,
    laws: Iterable[str] | None = None,
    also: Collection[str] = (),
    skip: Collection[str] = (),
    max_examples: int = 30,
) -> None:
    """Check that a pruner keeps the laws of pruners, on examples that are drawn and made as small as they can be.

    A pruner that takes any mapping is tried on small integer weights; one that traces the model on small networks; one
    that needs a particular model on that one, with integer weights.

    Examples:
        >>> import torch
        >>> from fprune import Masks, pruner
        >>> @pruner
        ... def smallest(params, config):
        ...     found = {}
        ...     for row in config.resolve(params).selected:
        ...         weight = params[row.layer.weight].abs()
        ...         threshold = weight.flatten().sort().values[int(row.sparsity * weight.numel())]
        ...         found[row.layer.weight] = weight >= threshold
        ...     return Masks(found)
        >>> check_pruner(smallest())
        Traceback (most recent call last):
        ...
        fprune.errors.LawViolation: smallest() breaks the law 'exact count': of 'a.weight' 0 of 4 elements ...

    Args:
        pruner: a stage of one pruner, such as `l1()`.
        model: the model it needs, such as one that its loss takes.
        config: what it is asked; drawn by default.
        example_inputs: what the model's forward takes.
        scores: what the pruner goes by, a function of the parameters to name -> a score for each element or unit;
            given, the law `scores` is checked.
        laws: the names of the laws to check, in the place of the usual ones.
        also: names of laws that are checked only when they are asked for: `scale`, `signs`.
        skip: names of laws that are not for this pruner.
        max_examples: how many examples each law is tried on.

    Raises:
        LawViolation: a law does not hold; the message has the smallest example found, as code.
    """
    piece = Piece(_stage(pruner, "check_pruner"), *_given(model, config), Inputs.of(example_inputs), scores)
    search(chosen(piece, "pruner", laws, also, skip), piece, max_examples)


def _stage(value: object, name: str) -> Stage:
    if not isinstance(value, Stage):
        hint = "call it: l1()" if callable(value) else "a stage is such as l1() or finetune(train)"
        raise ConfigTypeError(f"{name}: expected a stage, got {type(value).__name__}", hint=hint)
    return value


def check_schedule(
    schedule: Schedule,
    *,
    model: nn.Module | Model | None = None,
    config: ConfigLike | None = None,
    laws: Iterable[str] | None = None,
    skip: Collection[str] = (),
    max_examples: int = 30,
) -> None:
    """Check that a schedule keeps the laws of schedules, for drawn targets and scores of its rounds.

    Examples:
        >>> from fprune import Goal, schedule
        >>> @schedule
        ... def tenths(target):
        ...     share = 0.0
        ...     for t in range(10):
        ...         share += 0.1
        ...         yield Goal(target.scaled(share), final=t == 9)
        >>> check_schedule(tenths())
        Traceback (most recent call last):
        ...
        fprune.errors.LawViolation: tenths() breaks the law 'endpoint': goal 9 is final and asks for ...

    Args:
        schedule: such as `agp(10)`.
        model: the network whose layers it reads; drawn by default.
        config: the target; drawn by default.
        laws: the names of the laws to check, in the place of all.
        skip: names of laws that are not for this schedule.
        max_examples: how many examples each law is tried on.

    Raises:
        LawViolation: a law does not hold; the message has the smallest example found, as code.
    """
    if not isinstance(schedule, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "call it: agp(10)" if callable(schedule) else "a schedule is such as agp(10)"
        raise ConfigTypeError(f"check_schedule: expected a schedule, got {type(schedule).__name__}", hint=hint)
    piece = Piece(schedule, *_given(model, config))
    search(chosen(piece, "schedule", laws, (), skip), piece, max_examples)


def check_stage(
    stage: Stage,
    *,
    model: nn.Module | Model | None = None,
    config: ConfigLike | None = None,
    example_inputs: object = None,
    laws: Iterable[str] | None = None,
    also: Collection[str] = (),
    skip: Collection[str] = (),
    max_examples: int = 20,
) -> None:
    """Check that a stage keeps the laws of stages, on rounds of which some are pruned already.

    Examples:
        >>> from fprune import stage
        >>> @stage
        ... def noisy(result):
        ...     moved = {name: value + 1 for name, value in result.model.items()}
        ...     return result.replace(model=result.model.replace(params=moved))
        >>> check_stage(noisy())
        Traceback (most recent call last):
        ...
        fprune.errors.LawViolation: noisy() breaks the law 'pruned is zero': ...

    Args:
        stage: such as `finetune(train)`.
        model: the model it needs, such as one that its function takes; drawn by default.
        config: of the round; drawn by default.
        example_inputs: what the model's forward takes.
        laws: the names of the laws to check, in the place of the usual ones.
        also: names of laws that are checked only when they are asked for: `same outputs`.
        skip: names of laws that are not for this stage.
        max_examples: how many examples each law is tried on.

    Raises:
        LawViolation: a law does not hold; the message has the smallest example found, as code.
    """
    piece = Piece(_stage(stage, "check_stage"), *_given(model, config), Inputs.of(example_inputs))
    search(chosen(piece, "stage", laws, also, skip), piece, max_examples)


def check_pipeline(
    pipeline: Pipeline,
    *,
    model: nn.Module | Model | None = None,
    config: ConfigLike | None = None,
    example_inputs: object = None,
    names: Mapping[str, Any] | None = None,
    laws: Iterable[str] | None = None,
    skip: Collection[str] = (),
    max_examples: int = 8,
) -> None:
    """Check that a pipeline keeps the laws of pipelines, by running it on small networks.

    Examples:
        >>> from fprune import finetune, level, one_shot
        >>> calls = []
        >>> def train(module):
        ...     calls.append(1)
        ...     return {"calls": float(len(calls))}
        >>> check_pipeline(one_shot() | level() | finetune(train), max_examples=2)
        Traceback (most recent call last):
        ...
        fprune.errors.LawViolation: one_shot() | level() | finetune(train) breaks the law 'same seed': ...

    Args:
        pipeline: such as `agp(3) | level() | finetune(train)`.
        model: the model it needs, such as one that its functions take; drawn by default.
        config: what to prune and how much; drawn by default.
        example_inputs: what the model's forward takes.
        names: what names in the repr of the pipeline stand for, where they are not those of its functions.
        laws: the names of the laws to check, in the place of all.
        skip: names of laws that are not for this pipeline.
        max_examples: how many networks it is run on.

    Raises:
        LawViolation: a law does not hold; the message has the smallest example found, as code.
    """
    if not isinstance(pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "a pipeline begins with a schedule: one_shot() | ..."
        raise ConfigTypeError(f"check_pipeline: expected a pipeline, got {type(pipeline).__name__}", hint=hint)
    piece = Piece(pipeline, *_given(model, config), Inputs.of(example_inputs), names=names or {})
    search(chosen(piece, "pipeline", laws, (), skip), piece, max_examples)


def _given(model: nn.Module | Model | None, config: ConfigLike | None) -> tuple[Model | None, Config | None]:
    return None if model is None else Model.of(model), None if config is None else Config.of(config)
