"""What holds for every schedule: its goals lead to the target, and follow from its target and the reports alone."""

import copy
from functools import cached_property
from itertools import pairwise
from typing import Any, final

import attrs

from fprune.compose import Schedule
from fprune.config import Config
from fprune.model import Model
from fprune.records import Goal, Report
from fprune.setting import Setting
from fprune.shrinking import same_selectors
from fprune.strategies import networks, reached
from fprune.strategies.histories import SCORES
from fprune.strategies.hypothesis import st
from fprune.testing.law import Law, Piece

_MANY = 400
"""A schedule with more rounds counts as one that does not end."""
_TARGETS = st.one_of(
    st.sampled_from([0.5, 0.8, 0.3, 0.9, 0.0, 1 / 3]).map(Config),
    st.just(Config([{"op_types": ["Linear"], "sparsity": 0.7}, {"op_types": ["Conv2d"], "sparsity": 0.1}])),
)


@final
@attrs.frozen(eq=False)
class Past:
    """A target, and the scores that come of a schedule's goals."""

    schedule: Schedule
    target: Config
    scores: tuple[float, ...]
    model: Model | None = None
    text: str = ""

    def code(self, piece: Piece) -> list[str]:
        """The lines that ask for every goal again."""
        told = "" if self.model is None else ", setting=setting"
        given = "" if self.model is None else ", model=model"
        return [
            "from itertools import cycle",
            "from fprune import Config, Model, Rule, Setting",
            *([] if self.model is None else ["from torch import nn"]),
            "from fprune.strategies import Mean, Residual, Tied, filled, reached",
            f"target = {self.target!r}",
            *([] if self.model is None else [f"model = {self.text}", "setting = Setting.of(model, target)"]),
            "reports = []",
            f"for score in cycle({self.scores!r}):",
            f"    goal = ({piece.value!r}).goal(target, reports{told})",
            "    if goal is None:",
            "        break",
            f"    reports.append(reached(goal, len(reports), score{given}))",
        ]

    @cached_property
    def setting(self) -> Setting | None:
        """What the schedule is told of the model."""
        return None if self.model is None else Setting.of(self.model, self.target)

    @cached_property
    def rounds(self) -> tuple[list[Goal], list[Report]]:
        """Every goal, and a report of each, asked for one after the other."""
        return self.asked()

    def asked(self) -> tuple[list[Goal], list[Report]]:
        """The same, asked anew."""
        goals, reports = list[Goal](), list[Report]()
        ask = self.schedule.live(self.setting)
        while len(goals) <= _MANY and (goal := ask(self.target, tuple(reports))) is not None:
            reports.append(reached(goal, len(goals), self.scores[len(goals) % len(self.scores)], model=self.model))
            goals.append(goal)
        return goals, reports


@st.composite
def _pasts(draw: st.DrawFn, piece: Piece) -> Past:
    scores = tuple(draw(st.lists(st.sampled_from(SCORES), min_size=1, max_size=6)))
    if piece.model is not None:
        target = Config(draw(st.sampled_from([0.5, 0.3]))) if piece.config is None else piece.config
        return Past(piece.schedule, target, scores, piece.model, "Model.of(net)  # net: the model you passed")
    if piece.schedule.reads_setting:
        network = draw(networks())
        target = Config({"op_names": network.layers, "sparsity": 0.5}) if piece.config is None else piece.config
        return Past(piece.schedule, target, scores, Model.from_module(network.net), f"Model.from_module({network!r})")
    target = draw(_TARGETS) if piece.config is None else piece.config
    return Past(piece.schedule, target, scores)


def _some(piece: Piece, past: Past) -> str | None:
    goals, _ = past.rounds
    return None if goals else "there is no goal, expected at least one"


def _ends(piece: Piece, past: Past) -> str | None:
    goals, _ = past.rounds
    return f"after {_MANY} rounds there is still another goal" if len(goals) > _MANY else None


def _pairs(one: Config, two: Config) -> list[tuple[str, float, float]]:
    """The amounts of two configs that differ in nothing else, side by side."""
    rules = zip(one.rules, two.rules, strict=True)
    return [(key, a.amounts[key], b.amounts[key]) for a, b in rules for key in b.amounts]


def _range(piece: Piece, past: Past) -> str | None:
    for index, goal in enumerate(past.rounds[0]):
        if not same_selectors(goal.config, past.target):
            continue
        for key, found, target in _pairs(goal.config, past.target):
            if not 0 <= found <= target:
                return f"goal {index} asks for {key} {found!r}, expected one in [0, {target!r}]"
    return None


def _endpoint(piece: Piece, past: Past) -> str | None:
    goals, _ = past.rounds
    for index, goal in enumerate(goals):
        if goal.final and not _meets(goal, past):
            return f"goal {index} is final and asks for {goal.config!r}, expected the target, {past.target!r}"
    last, complete = len(goals) - 1, piece.schedule.foreseen(past.target, setting=past.setting)[1]
    if complete and not piece.schedule.may_stop and goals and not goals[-1].final:
        return f"goal {last} is the last and not final; mark it so where it meets the target: Goal(target, final=True)"
    return None


def _meets(goal: Goal, past: Past) -> bool:
    """Whether a goal asks for the target: for the same, or of other layers at least for as many elements."""
    if same_selectors(goal.config, past.target):
        return goal.config == past.target
    if past.model is None or any(rule.budget is not None for rule in (*goal.config.rules, *past.target.rules)):
        return True
    return _asked(goal.config, past.model) >= _asked(past.target, past.model) - 0.02


def _asked(config: Config, model: Model) -> float:
    """The fraction of the elements of selected layers that a config removes."""
    rows = config.resolve(model).selected
    return sum((row.sparsity or row.total or 0.0) * model[row.layer.weight].numel() for row in rows) / model.num_params


def _monotone(piece: Piece, past: Past) -> str | None:
    goals, _ = past.rounds
    for index, (before, goal) in enumerate(pairwise(goals), 1):
        if goal.start == "origin" or not same_selectors(goal.config, before.config):
            continue
        for key, earlier, later in _pairs(before.config, goal.config):
            if later < earlier:
                return f"goal {index} asks for {key} {later!r} after {earlier!r}; only one that starts anew may"
    return None


def _alone(piece: Piece, past: Past) -> str | None:
    goals, reports = past.rounds
    step = max(1, len(goals) // 8)
    for k in (*range(len(goals), -1, -step), 0):
        found = piece.schedule.goal(past.target, copy.deepcopy(reports[:k]), setting=past.setting)
        wanted = goals[k] if k < len(goals) else None
        if found != wanted:
            return f"asked alone for goal {k} with the reports before it: {found!r}, in order it was {wanted!r}"
    again, _ = past.asked()
    return None if again == goals else "asked for all goals once more, it gives others"


def _law(name: str, says: str, check: Any) -> Law:
    return Law(name, "schedule", says, _pasts, check)


LAWS: tuple[Law, ...] = (
    _law("goals", "there is a goal, and every one is a Goal", _some),
    _law("ends", "there is a last goal", _ends),
    _law("range", "no goal asks for less than nothing or more than the target", _range),
    _law("monotone", "goals ask for ever more, where they go on from the round before", _monotone),
    _law("endpoint", "the last goal is final, and final ones ask for the target, exactly", _endpoint),
    _law(
        "history alone", "a goal follows from the target and the reports, in whatever order goals are asked for", _alone
    ),
)
"""In the order in which they are tried."""
