"""Strategies for reports, and for the histories that a schedule may be sent."""

import math
from collections.abc import Mapping

from fprune.compose import Schedule
from fprune.config import Config
from fprune.counting import Realised
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.records import Goal, Report, TaskResult
from fprune.setting import Setting
from fprune.strategies.configs import configs, goals
from fprune.strategies.hypothesis import st
from fprune.strategies.networks import networks
from fprune.tree import Flat

_LAYERS = Flat({"0.weight": 12, "2.weight": 20})
SCORES = (0.0, 0.25, 0.5, 0.5, 0.75, 1.0)
"""Scores of generated reports; ties are frequent."""


def reached(
    goal: Goal,
    index: int,
    score: float | None,
    *,
    metrics: Mapping[str, float] | None = None,
    model: Model | None = None,
) -> Report:
    """Make the report of a round that removed what its goal asked for.

    Examples:
        >>> reached(Goal(0.5), 2, 0.75)
        Report(round 2, sparsity 0.5, channels 0.5, score 0.75)

    Args:
        goal: of the round.
        index: of the round.
        score: of the round.
        metrics: other numbers that were reported.
        model: whose layers are reported; two of 12 and 20 elements by default.

    Returns:
        The report.
    """
    if model is None:
        plain = goal.config.rules[0]
        amounts = dict.fromkeys(_LAYERS, plain.sparsity or plain.total_sparsity or 0.0)
        sizes = (_LAYERS, _LAYERS)
    else:
        rows = goal.config.resolve(model).selected
        amounts = {row.layer.weight: row.sparsity or row.total or 0.0 for row in rows}
        layers = {row.layer.weight: row.layer for row in rows}
        sizes = Flat(layers).map(lambda layer: layer.units), Flat(layers).map(lambda layer: math.prod(layer.shape))
    channels, elements = (
        part.map_with_name(lambda name, total: Realised(math.floor(amounts[name] * total + 1e-9), total))
        for part in sizes
    )
    return Report(index, goal, score, Flat(metrics or {}), channels, elements)


@st.composite
def _reports(draw: st.DrawFn, index: int | None, goal: Goal | None) -> Report:
    goal = draw(goals()) if goal is None else goal
    index = draw(st.integers(0, 9)) if index is None else index
    metrics = {"loss": draw(st.sampled_from(SCORES))} if draw(st.booleans()) else {}
    return reached(goal, index, draw(st.sampled_from(SCORES)), metrics=metrics)


def reports(*, index: int | None = None, goal: Goal | None = None) -> st.SearchStrategy[Report]:
    """Generate reports of rounds that reached their goal, with a score.

    Examples:
        >>> from hypothesis import find
        >>> find(reports(goal=Goal(0.5), index=2), lambda report: report.score > 0.5)
        Report(round 2, sparsity 0.5, channels 0.5, score 0.75)

    Args:
        index: of the round; drawn by default.
        goal: of the round; drawn by default.

    Returns:
        A strategy.
    """
    return _reports(index, goal)


@st.composite
def _histories(
    draw: st.DrawFn, schedule: Schedule, target: Config, model: Model | None, most: int
) -> tuple[Report, ...]:
    setting = Setting.of(model, target) if model is not None and schedule.reads_setting else None
    found: tuple[Report, ...] = ()
    for index in range(draw(st.integers(0, most))):
        goal = schedule.goal(target, found, setting=setting)
        if goal is None:
            break
        found = (*found, reached(goal, index, draw(st.sampled_from(SCORES)), model=model))
    return found


def histories(
    schedule: Schedule, target: Config, *, model: Model | None = None, max_rounds: int = 20
) -> st.SearchStrategy[tuple[Report, ...]]:
    """Generate what a schedule may have been told: reports of its own goals, whose scores are drawn.

    Examples:
        >>> from hypothesis import find
        >>> from fprune import agp
        >>> find(histories(agp(2), Config(0.8)), lambda history: len(history) > 1)
        (Report(round 0, sparsity 0, channels 0, score 0), Report(round 1, sparsity 0.6875, channels 0.6875, score 0))

    Args:
        schedule: that gives the goals.
        target: of the run.
        model: whose layers are reported; schedules that read a `Setting` need it.
        max_rounds: the most reports in a history; it may end before the schedule does.

    Returns:
        A strategy.
    """
    return _histories(schedule, target, model, max_rounds)


@st.composite
def _results(draw: st.DrawFn) -> TaskResult:
    network = draw(networks())
    config = draw(configs(network))
    seed = draw(st.integers(0, 3))
    start = TaskResult.start(network.net, config, example_inputs=Inputs.of(network.inputs), seed=seed)
    return start.next(Goal(config, final=True)) if draw(st.booleans()) else start


def results() -> st.SearchStrategy[TaskResult]:
    """Generate what stages are given: a round of a run on a generated network, before its first stage.

    Examples:
        >>> from hypothesis import given, settings
        >>> @given(results())
        ... @settings(max_examples=2, deadline=None)
        ... def law(result):
        ...     assert result.index in (-1, 0)
        >>> law()

    Returns:
        A strategy.
    """
    return _results()
