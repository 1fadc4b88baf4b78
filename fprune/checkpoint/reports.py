"""Goals and reports as JSON, and back."""

from collections.abc import Iterable
from typing import Any, cast

from fprune.checkpoint.entry import Entry
from fprune.config import Config
from fprune.counting import Realised
from fprune.report import Goal, Report
from fprune.tree import Flat

__all__ = ["config_of", "config_record", "goal_of", "goal_record", "reports_of", "reports_record"]


def config_record(config: Config) -> list[dict[str, Any]]:
    """A config as plain dicts.

    Examples:
        >>> config_record(Config(0.5))
        [{'sparsity': 0.5}]
    """
    return [rule.to_dict() for rule in config.rules]


def config_of(entry: Entry) -> Config:
    """The config that an entry describes."""
    entry.each(lambda rule: list(rule.items()))
    return entry.made(Config, entry.value)


def goal_record(goal: Goal) -> dict[str, Any]:
    """A goal as a plain dict.

    Examples:
        >>> goal_record(Goal(0.5, final=True))
        {'config': [{'sparsity': 0.5}], 'start': 'previous', 'final': True}
    """
    return {"config": config_record(goal.config), "start": goal.start, "final": goal.final}


def goal_of(entry: Entry) -> Goal:
    """The goal that an entry describes."""
    start = entry["start"].text("previous", "origin")
    return Goal(config_of(entry["config"]), start=cast(Any, start), final=entry["final"].flag())


def reports_record(reports: Iterable[Report]) -> dict[str, Any]:
    """Reports as plain dicts; the names of the weights, which are the same in all of them, once.

    Examples:
        >>> one = Report(0, Goal(0.5), 0.9, channels=Flat({"w": Realised(0, 2)}), elements=Flat({"w": Realised(3, 6)}))
        >>> found = reports_record([one])
        >>> found["weights"], found["rounds"][0]["elements"]
        (['w'], [[0, 3, 6]])
        >>> reports_of(Entry(found, "manifest.json")) == (one,)
        True
    """
    every = list(reports)
    names = sorted({name for report in every for name in (*report.channels, *report.elements)})
    number = {name: i for i, name in enumerate(names)}
    rounds = [
        {
            "round": report.index,
            "goal": goal_record(report.goal),
            "score": report.score,
            "metrics": dict(report.metrics),
            "channels": [[number[name], part.removed, part.total] for name, part in report.channels.items()],
            "elements": [[number[name], part.removed, part.total] for name, part in report.elements.items()],
            "notes": list(report.notes),
        }
        for report in every
    ]
    return {"weights": names, "rounds": rounds}


def reports_of(entry: Entry) -> tuple[Report, ...]:
    """The reports that an entry describes."""
    names = entry["weights"].each(Entry.text)

    def parts(found: Entry) -> Flat[Realised]:
        rows = [(row, row.each(lambda n: n.integer(0))) for row in found.each(lambda row: row)]
        for row, numbers in rows:
            if len(numbers) != 3 or numbers[0] >= len(names) or numbers[1] > numbers[2]:
                row.refuse(f"expected the number of a weight, how much of it is gone and how much there was: {numbers}")
        return found.made(Flat[Realised], [(names[i], Realised(removed, total)) for _, (i, removed, total) in rows])

    def report(found: Entry) -> Report:
        return Report(
            found["round"].integer(0),
            goal_of(found["goal"]),
            found.maybe("score", Entry.number),
            Flat(found["metrics"].mapped(Entry.number)),
            channels=parts(found["channels"]),
            elements=parts(found["elements"]),
            notes=found["notes"].each(Entry.text),
        )

    return entry["rounds"].each(report)
