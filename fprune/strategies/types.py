"""What `st.from_type` gives for the records of fprune."""

from collections.abc import Callable
from typing import Any

from fprune.compose import Pipeline, Schedule, Stage
from fprune.config import Config
from fprune.masks import Masks
from fprune.model import Model
from fprune.plan import Plan
from fprune.records import Goal, Report, Task, TaskResult
from fprune.rule import Rule
from fprune.setting import Setting
from fprune.strategies.configs import configs, goals
from fprune.strategies.histories import reports, results
from fprune.strategies.hypothesis import st
from fprune.strategies.networks import Network, models, networks
from fprune.strategies.pipelines import pipelines, schedules, words
from fprune.strategies.tensors import masks

_TYPES: dict[type, Callable[[], st.SearchStrategy[Any]]] = {
    Config: configs,
    Rule: lambda: configs().map(lambda config: config.rules[0]),
    Masks: masks,
    Model: models,
    Network: networks,
    Goal: goals,
    Report: reports,
    Task: lambda: results().map(lambda result: result.task),
    TaskResult: results,
    Plan: lambda: results().map(lambda result: result.task.plan),
    Setting: lambda: models().map(lambda model: Setting.of(model, 0.5)),
    Schedule: schedules,
    Stage: words,
    Pipeline: pipelines,
}


def _drawn(make: Callable[[], st.SearchStrategy[Any]]) -> Callable[[Any], st.SearchStrategy[Any]]:
    return lambda _: make()


def register() -> None:
    """Tell hypothesis how the records of fprune are generated; importing `fprune.strategies` does.

    Examples:
        >>> from hypothesis import find
        >>> find(st.from_type(Goal), lambda goal: goal.final)
        Goal(Config(0.25), final=True)
    """
    for kind, make in _TYPES.items():
        st.register_type_strategy(kind, _drawn(make))
