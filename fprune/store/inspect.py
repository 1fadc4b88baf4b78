"""What is in a run's folder, and whether it is as it was written; no model is needed."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import final

import attrs

from fprune.checkpoint import disk
from fprune.checkpoint.entry import Entry
from fprune.checkpoint.environment import Environment
from fprune.checkpoint.layout import ORIGIN, STATE, round_name
from fprune.checkpoint.reports import config_of, reports_of
from fprune.config import Config
from fprune.errors import CheckpointError
from fprune.report import Report
from fprune.store.load import Committed, Run, as_recorded, committed, rounds, run_of
from fprune.tables import html_table, text_table

__all__ = ["Inspection", "Kept", "inspect_run"]


@final
@attrs.frozen
class Kept:
    """A round that is in the folder.

    Args:
        index: the round.
        bytes: how many bytes it takes; 0 when it cannot be read.
        tensors: the digest of its tensors; empty when it cannot be read.
        problem: why it cannot be relied on; empty when it can.
    """

    index: int
    bytes: int
    tensors: str
    problem: str = ""


@final
@attrs.frozen(eq=False, repr=False)
class Inspection:
    """A run as its folder tells it; prints as a table of rounds.

    Args:
        folder: the folder.
        pipeline: the expression; None for a result that was saved by itself.
        config: the target.
        seed: the run's seed.
        example_inputs: their shapes; None when there were none.
        environment: where the run began.
        network: what kind of network it began with.
        origin: the digest of that network's values.
        reports: what each round came to, by index; also of rounds that are not kept.
        kept: the rounds that are in the folder, oldest first.
        problems: what else is damaged.
        leftovers: how many unfinished pieces crashes left behind; the next run sweeps them.
    """

    folder: Path
    pipeline: str | None
    config: Config
    seed: int
    example_inputs: str | None
    environment: Environment
    network: Entry
    origin: str
    reports: Mapping[int, Report]
    kept: tuple[Kept, ...]
    problems: tuple[str, ...] = ()
    leftovers: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything in the folder is as it was written."""
        return not self.problems and not any(each.problem for each in self.kept)

    def __repr__(self) -> str:
        return f"Inspection({self.folder}, {len(self.kept)} rounds kept, {'ok' if self.ok else 'damaged'})"

    def __str__(self) -> str:
        return "\n".join([*self._heading(), text_table(_HEADERS, self._rows()), *self._remarks()])

    def _repr_html_(self) -> str:
        notes = html_table(["about"], [[line] for line in (*self._heading()[1:], *self._remarks())])
        return html_table(_HEADERS, self._rows(), title=self._heading()[0]) + notes

    def _heading(self) -> list[str]:
        env = self.environment
        threads = f"{env.threads} thread{'s' if env.threads > 1 else ''}"
        given = "" if self.example_inputs is None else f", example inputs {self.example_inputs}"
        return [
            f"{self.folder}: {self.pipeline or 'a result saved by itself'}",
            f"{self.config!r}, seed {self.seed}{given}",
            f"fprune {env.fprune}, torch {env.torch}, Python {env.python}, {env.machine}, {threads}, {env.device}",
        ]

    def _rows(self) -> list[list[str]]:
        kept = {each.index: each for each in self.kept}
        return [
            [str(index), *_reported(self.reports.get(index)), *_stored(kept.get(index))]
            for index in sorted({*self.reports, *kept})
        ]

    def _remarks(self) -> list[str]:
        total = sum(each.bytes for each in self.kept)
        left = [f"{self.leftovers} unfinished pieces, which the next run sweeps"] if self.leftovers else []
        counts = f"{len(self.kept)} of {len({*self.reports, *(k.index for k in self.kept)})} rounds kept"
        return [f"{counts}, {total:,} bytes", *left, *(f"damaged: {line}" for line in self.problems)]


_HEADERS = ["round", "goal", "sparsity", "channels", "score", "bytes", "digest"]


def _reported(report: Report | None) -> list[str]:
    if report is None:
        return [""] * 4
    goal = ", ".join(f"{amount:.4g}" for rule in report.goal.config.rules for amount in rule.amounts.values())
    score = "" if report.score is None else f"{report.score:.4g}"
    return [_short(goal), f"{report.sparsity:.4g}", f"{report.channel_sparsity:.4g}", score]


def _stored(kept: Kept | None) -> list[str]:
    if kept is None:
        return ["", "not kept"]
    return [f"{kept.bytes:,}" if kept.bytes else "", kept.problem or "ok"]


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def inspect_run(path: str | PathLike[str]) -> Inspection:
    """Read the folder of a run, or of one saved result, and compare every file with its digest.

    Each round names the one it was made from, so a round that was exchanged for another is noticed as well.

    Examples:
        >>> import tempfile, torch
        >>> from fprune import agp, level
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = (agp(2) | level()).run(torch.nn.Linear(4, 4), 0.5, store=f"{folder}/a")
        ...     found = inspect_run(f"{folder}/a")
        >>> found.pipeline, found.ok, [report.sparsity for report in found.reports.values()]
        ('agp(2) | level()', True, [0.0, 0.4375, 0.5])

    Args:
        path: the folder.

    Returns:
        What there is, and what is wrong with it; nothing is changed.

    Raises:
        CheckpointError: there is no run, or its description is damaged.
    """
    run = run_of(Path(path))
    entry = run.entry
    found = list(_rounds(run))
    whole = [each for each, manifest in found if manifest is not None and not each.problem]
    manifests = {each.index: manifest for each, manifest in found if manifest is not None}
    environment = Environment.from_dict(entry["environment"].mapped(lambda value: value.value))
    return Inspection(
        run.folder,
        entry.maybe("pipeline", Entry.text),
        config_of(entry["config"]),
        entry["seed"].integer(),
        entry.maybe("example_inputs", Entry.text),
        environment,
        entry["network"],
        entry["origin"]["blake2b"].text(),
        _reports(manifests[whole[-1].index]) if whole else {},
        tuple(each for each, _ in found),
        tuple(_origin_problems(run)),
        sum(name.name.startswith((".tmp-", ".trash-")) for name in run.folder.iterdir()),
    )


def _rounds(run: Run) -> Iterator[tuple[Kept, Committed | None]]:
    """The rounds in the folder, each compared with its digests and with the round that it names as its parent."""
    before: Committed | None = None
    for index in rounds(run.folder):
        try:
            manifest = committed(run, index)
            reports_of(manifest.entry["result"]["history"])
        except CheckpointError as error:
            before = None
            if (run.folder / round_name(index)).exists():  # a run that is going on lets go of rounds meanwhile
                yield Kept(index, 0, "", _reason(error, run)), None
            continue
        parent = manifest.entry.maybe("parent", Entry.text)
        other = before is not None and before.index == index - 1 and before.digest != parent
        problem = f"it was made from another round {index - 1} than the one that is here" if other else ""
        yield Kept(index, manifest.bytes, manifest.entry["files"][STATE]["blake2b"].text(), problem), manifest
        before = manifest


def _reports(manifest: Committed) -> dict[int, Report]:
    result = manifest.entry["result"]
    return {report.index: report for entry in ("history", "report") for report in reports_of(result[entry])}


def _origin_problems(run: Run) -> Iterator[str]:
    path = run.folder / ORIGIN
    try:
        written = disk.digest_file(path)
        as_recorded(run.entry["origin"], written.bytes, written.blake2b, path)
    except CheckpointError as error:
        yield _reason(error, run)


def _reason(error: CheckpointError, run: Run) -> str:
    return error.message.partition("\n")[0].removeprefix(f"{run.folder}/")
