"""How two runs differ: what was asked, where, and what came of it, round by round."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import final

import attrs

from fprune.errors import CheckpointError
from fprune.report import Report
from fprune.store.inspect import Inspection, inspect_run
from fprune.store.load import differences_of_networks
from fprune.tables import html_table, text_table

__all__ = ["Difference", "diff_runs"]

Row = tuple[str, str, str]


@final
@attrs.frozen(repr=False)
class Difference:
    """What is not the same in two runs; prints as tables, empty ones left out.

    Args:
        names: the two folders.
        settings: what was asked and where it ran: what, then the value of each.
        rounds: what rounds came to: which round and what of it, then the value of each.
        layers: how much of each weight is gone at the end: channels and elements, then the counts of each.
    """

    names: tuple[str, str]
    settings: tuple[Row, ...]
    rounds: tuple[Row, ...]
    layers: tuple[Row, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs: settings, environment, reports, and the tensors of rounds that both keep."""
        return not (self.settings or self.rounds or self.layers)

    def __repr__(self) -> str:
        found = len(self.settings) + len(self.rounds) + len(self.layers)
        return f"Difference({self.names[0]}, {self.names[1]}, {found} differences)"

    def __str__(self) -> str:
        tables = [text_table([what, *self.names], rows, title="") for what, rows in self._tables() if rows]
        return "\n\n".join(tables) or f"{self.names[0]} and {self.names[1]} are equal"

    def _repr_html_(self) -> str:
        tables = [html_table([what, *self.names], rows) for what, rows in self._tables() if rows]
        return "".join(tables) or html_table(["difference"], [["none"]], title=" and ".join(self.names))

    def _tables(self) -> list[tuple[str, tuple[Row, ...]]]:
        return [("setting", self.settings), ("round", self.rounds), ("weight", self.layers)]


def diff_runs(a: str | PathLike[str], b: str | PathLike[str]) -> Difference:
    """Compare two runs, or two rounds.

    Examples:
        >>> import tempfile, torch
        >>> from fprune import agp, level
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, sparsity in (("a", 0.5), ("b", 0.75)):
        ...         net = torch.nn.Linear(4, 4, bias=False)
        ...         _ = net.load_state_dict({"weight": torch.arange(1.0, 17.0).view(4, 4)})
        ...         result = (agp(1) | level()).run(net, sparsity, store=f"{folder}/{name}")
        ...     found = diff_runs(f"{folder}/a", f"{folder}/b")
        >>> found.equal, found.settings
        (False, (('config', 'Config(0.5)', 'Config(0.75)'),))
        >>> found.layers
        (('weight, channels', '2 of 4', '3 of 4'), ('weight, elements', '8 of 16', '12 of 16'))

    Args:
        a: the folder of a run, or of one of its rounds: `runs/a/it-000003`.
        b: likewise.

    Returns:
        What is not the same.

    Raises:
        CheckpointError: one of them is no run, or has no such round.
    """
    (one, first), (two, second) = _opened(Path(a)), _opened(Path(b))
    chosen = first is not None or second is not None
    last_one, last_two = _last(one, first), _last(two, second)
    pairs = [(last_one, last_two)] if chosen else [(n, n) for n in sorted({*one.reports, *two.reports})]
    rounds = [row for i, j in pairs for row in _of_rounds(one, i, two, j)]
    layers = _of_layers(one.reports.get(last_one), two.reports.get(last_two))
    return Difference((str(a), str(b)), tuple(_of_settings(one, two)), tuple(rounds), tuple(layers))


def _opened(path: Path) -> tuple[Inspection, int | None]:
    """The run at a path, and which of its rounds is meant, if it is one."""
    name = path.name
    if not (name.startswith("it-") and name[3:].isascii() and name[3:].isdecimal()):
        return inspect_run(path), None
    found, index = inspect_run(path.parent), int(name[3:])
    kept = [each.index for each in found.kept]
    if index not in kept:
        raise CheckpointError(
            f"{path.parent}: round {index} is not kept; there are {', '.join(map(str, kept)) or 'none'}",
            hint="python -m fprune inspect shows what there is",
        )
    return found, index


def _last(run: Inspection, chosen: int | None) -> int:
    return max(run.reports, default=-1) if chosen is None else chosen


def _of_settings(a: Inspection, b: Inspection) -> Iterator[Row]:
    for what, one, two in (
        ("pipeline", a.pipeline or "", b.pipeline or ""),
        ("config", repr(a.config), repr(b.config)),
        ("seed", str(a.seed), str(b.seed)),
        ("example inputs", a.example_inputs or "", b.example_inputs or ""),
    ):
        if one != two:
            yield what, one, two
    networks = differences_of_networks(a.network, {key: entry.value for key, entry in b.network.items()})
    yield from (("network", "", line) for line in networks)
    if not networks and a.origin != b.origin:
        yield "first weights", a.origin[:12], b.origin[:12]
    here, there = a.environment.to_dict(), b.environment.to_dict()
    yield from ((name, str(here[name]), str(there[name])) for name in here if here[name] != there[name])


def _of_rounds(a: Inspection, i: int, b: Inspection, j: int) -> Iterator[Row]:
    which = str(i) if i == j else f"{i} and {j}"
    one, two = _numbers(a.reports.get(i)), _numbers(b.reports.get(j))
    for what in dict.fromkeys([*one, *two]):
        if one.get(what) != two.get(what):
            yield f"{which}: {what}", one.get(what, ""), two.get(what, "")
    kept = [{each.index: each for each in run.kept}.get(n) for run, n in ((a, i), (b, j))]
    problems = [each.problem if each is not None else "" for each in kept]
    if any(problems):
        yield f"{which}: damaged", problems[0], problems[1]
    elif kept[0] is not None and kept[1] is not None and kept[0].tensors != kept[1].tensors:
        yield f"{which}: tensors", kept[0].tensors[:12], kept[1].tensors[:12]


def _numbers(report: Report | None) -> dict[str, str]:
    """What a round reported, as it is compared and shown."""
    if report is None:
        return {}
    numbers = {"sparsity": report.sparsity, "channels": report.channel_sparsity, **report.metrics}
    score = {} if report.score is None else {"score": f"{report.score:.6g}"}
    shown = {name: f"{value:.6g}" for name, value in numbers.items()}
    return {"goal": repr(report.goal), **score, **shown}


def _of_layers(a: Report | None, b: Report | None) -> Iterator[Row]:
    if a is None or b is None:
        return
    for what in ("channels", "elements"):
        one, two = dict(getattr(a, what)), dict(getattr(b, what))
        for name in dict.fromkeys([*one, *two]):
            if one.get(name) != two.get(name):
                shown = [f"{c.removed:,} of {c.total:,}" if c else "" for c in (one.get(name), two.get(name))]
                yield f"{name}, {what}", shown[0], shown[1]
