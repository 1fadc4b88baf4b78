"""What holds for every pipeline: it is a lazy, pure, resumable value, and its rounds reach their goals."""

import copy
from itertools import pairwise
from typing import Any

from fprune.compose import Pipeline, Stage
from fprune.errors import LawViolation
from fprune.plan import Row
from fprune.records import TaskResult
from fprune.stages import tap
from fprune.testing.asks import met
from fprune.testing.expressions import known_names, read
from fprune.testing.law import Law, Piece
from fprune.testing.runs import Run, fields_that_differ, runs
from fprune.testing.stage_laws import shrunk, unpruned
from fprune.testing.watch import disturb, untouched


def _value(piece: Piece) -> Pipeline:
    return piece.value  # pyright: ignore[reportReturnType]


def _grouping(piece: Piece, run: Run) -> str | None:
    pipeline, calls = _value(piece), piece.stage.calls
    for at in range(len(calls) + 1):
        first, second = Stage(calls[:at]), Stage(calls[at:])
        one, two = (pipeline.schedule | first) | second, pipeline.schedule | (first | second)
        if not (one == two == pipeline and hash(one) == hash(pipeline) and repr(one) == repr(pipeline)):
            return f"{one!r}, joined one by one, is not {pipeline!r}"
    return None


def _repr(piece: Piece, run: Run) -> str | None:
    pipeline = _value(piece)
    text = repr(pipeline)
    if "<" in text:
        return None  # data and nameless functions have no expression
    found = read(text, {**known_names(pipeline), **piece.names})
    return None if found == pipeline else f"{text} builds another pipeline, {found!r}"


def _differ(one: list[TaskResult], two: list[TaskResult], what: str) -> str | None:
    if len(one) != len(two):
        return f"{what} gives {len(two)} rounds, expected {len(one)}"
    for a, b in zip(one, two, strict=True):
        if found := fields_that_differ(a, b):
            return f"{what} gives another {found[0]} in round {a.index}"
    return None


def _seed(piece: Piece, run: Run) -> str | None:
    first = run.results
    disturb()
    described = run.stream()
    told = _differ(first, list(described), "the same run with the same seed")
    return told or _differ(first, list(described), "iterating a stream once more")


def _continues(piece: Piece, run: Run) -> str | None:
    whole = run.results
    for k, result in enumerate(whole):
        told = _differ(whole[k + 1 :], list(_value(piece).stream(result)), f"going on from the result of round {k}")
        if told is not None:
            return told
    return None


def _lazy(piece: Piece, run: Run) -> str | None:
    seen: list[int] = []
    pipeline = _value(piece) | tap(lambda result: seen.append(result.index))
    described = run.stream(pipeline)
    if seen:
        return "describing a run runs it"
    for k, result in enumerate(described):
        if result.index != k or seen != list(range(k + 1)):
            return f"{k + 1} results were taken, and rounds {seen} have run"
    return None


def _untouched(piece: Piece, run: Run) -> str | None:
    try:
        with untouched(run.net, run.config, run.inputs):
            list(run.stream())
    except LawViolation as error:
        return error.message
    return None


def _kept(piece: Piece, run: Run) -> str | None:
    results, copies = list[TaskResult](), list[TaskResult]()
    for result in run.stream():
        results.append(result)
        copies.append(copy.deepcopy(result))
    return _differ(copies, results, "what a later round does")


def _reaches(piece: Piece, run: Run) -> str | None:
    for result in run.results:
        report, rules = result.report, dict[int | None, list[Row]]()
        for row in result.goal.config.resolve(result.origin).selected:
            rules.setdefault(row.rule, []).append(row)
        for rows in rules.values():
            amount = rows[0].sparsity if rows[0].sparsity is not None else rows[0].total
            parts = [[part[row.layer.weight] for row in rows] for part in (report.channels, report.elements)]
            if amount is not None and not any(met(amount, [(p.removed, p.total) for p in part]) for part in parts):
                gone = " and ".join(f"{sum(p.removed for p in part)} of {sum(p.total for p in part)}" for part in parts)
                names = ", ".join(repr(row.layer.weight) for row in rows)
                return f"round {result.index} asks for {amount:g} of {names}; of units and elements {gone} are gone"
    return None


def _shrink(piece: Piece, run: Run) -> str | None:
    for before, after in pairwise(run.results):
        if after.goal.start == "previous" and (told := shrunk(before, after)) is not None:
            return f"round {after.index}: {told}"
    return None


def _pruned(piece: Piece, run: Run) -> str | None:
    for result in run.results:
        if (told := unpruned(result)) is not None:
            return f"round {result.index}: {told}"
    return None


def _alone(piece: Piece, run: Run) -> str | None:
    if _value(piece).schedule.reads_setting:
        return None
    target = run.config
    reports = [result.report for result in run.results]
    for k in range(len(reports), -1, -1):
        found = _value(piece).schedule.goal(target, copy.deepcopy(reports[:k]))
        wanted = run.results[k].goal if k < len(reports) else None
        if found != wanted:
            return f"asked later for goal {k}, the schedule gives {found!r}, in the run it was {wanted!r}"
    return None


def _keeps(piece: Piece) -> bool:
    return not piece.regrows


def _law(name: str, says: str, check: Any, **options: Any) -> Law:
    return Law(name, "pipeline", says, runs, check, **options)


LAWS: tuple[Law, ...] = (
    _law("grouping", "it is the same however its stages are joined", _grouping),
    _law("repr", "its repr is the expression that builds it", _repr),
    _law("nothing changes", "the network, the config and the process are only read", _untouched),
    _law("results stay", "a result does not change when later rounds are made", _kept),
    _law("same seed", "the same seed gives the same stream, to the last bit", _seed),
    _law("continues", "a stream goes on from any of its results as if it had never stopped", _continues),
    _law("lazy", "taking k results runs k rounds", _lazy),
    _law("masks only shrink", "what was gone is gone, unless a round starts anew", _shrink, applies=_keeps),
    _law("pruned is zero", "weights under a false mask are exactly 0", _pruned),
    _law("goals", "each round removes exactly what its goal asks for, of each layer or of all of a rule", _reaches),
    _law("history alone", "a goal follows from the target and the reports", _alone),
)
"""In the order in which they are tried."""
