"""Run folders: a run that survives its process, and is resumed by being run again."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final
from warnings import warn

import attrs

from fprune import tree
from fprune.checkpoint import disk
from fprune.checkpoint.commit import LOCK, discard, locked, place, sweep
from fprune.checkpoint.disk import Written
from fprune.checkpoint.encode import origin_tensors
from fprune.checkpoint.environment import Environment
from fprune.checkpoint.layout import ORIGIN, RUN, begin, described_run, keep, round_name
from fprune.checkpoint.tensors import parts
from fprune.errors import CheckpointError, ConfigTypeError, EnvironmentChanged, RoundDamaged
from fprune.inputs import Inputs
from fprune.records import TaskResult
from fprune.store.cache import StageCache
from fprune.store.load import (
    Origin,
    Run,
    as_recorded,
    committed,
    differences_of_networks,
    newest,
    result_of,
    rounds,
    run_of,
    tensors_in,
)
from fprune.tree import same

__all__ = ["RunFolder", "run_folder"]

Keep = Literal["last", "all"]

_ROOM = 1.1
"""How many times the bytes of the last round have to be free before the next one begins."""


@final
@attrs.frozen
class RunFolder:
    """A folder that keeps a run: each round is committed before the next begins, and a run goes on where it stopped.

    Args:
        path: the folder.
        keep: which rounds stay: `"last"`, the last two and the best, or `"all"`.
        strict_env: refuse to go on in another environment, rather than warn.
        cache: where what stages make is kept.
    """

    path: Path
    keep: Keep = "last"
    strict_env: bool = False
    cache: StageCache | None = None

    @contextmanager
    def writing(self, start: TaskResult, name: str) -> Generator["RunSession"]:
        """Open the run for writing; it is locked until the end of the block.

        Args:
            start: the state the run begins with.
            name: the pipeline, as it is written.

        Raises:
            CheckpointError: another process writes here, the folder holds another run, or it is damaged.
        """
        try:
            disk.make_folders(self.path)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be made: {error.strerror}", hint="store= takes a folder that can be written to"
            ) from error
        with locked(self.path):
            sweep(self.path)
            if not (self.path / RUN).exists():
                _refuse_foreign(self.path)
                begin(self.path, start, name)
            run = run_of(self.path)
            self._compare(run, start, name)
            _mend_origin(run, start)
            yield RunSession(self, run, start)

    def latest(self, start: TaskResult, name: str) -> TaskResult | None:
        """The last result that is there, read without opening the run for writing.

        Args:
            start: the state the run begins with.
            name: the pipeline, as it is written.

        Raises:
            CheckpointError: the folder holds another run, or it is damaged.
        """
        if not (self.path / RUN).exists():
            return None
        run = run_of(self.path)
        self._compare(run, start, name)
        return newest(run, Origin(start.task.origin, start.task.origin_masks), start.task.example_inputs, start.index)

    def _compare(self, run: Run, start: TaskResult, name: str) -> None:
        """Refuse to go on with a run that is another one; say when it is the same in another place."""
        said = run.entry
        origin = disk.digest_parts(parts(origin_tensors(start)[1], ORIGIN))
        now = described_run(start, name, origin)
        found = [
            f"{key}: {said[key].value!r} there, {now[key]!r} here"
            for key in ("pipeline", "config", "seed", "example_inputs", "modes")
            if said[key].value != now[key]
        ]
        found += differences_of_networks(said["network"], now["network"])
        if not found and said["origin"]["blake2b"].text() != origin.blake2b:
            found = _differing_values(run.folder, start)
        begins = said["start"].integer(), said["begins_with"].value
        if not found and begins != (now["start"], now["begins_with"]) and not self._has(run, start):
            found = [f"it goes on from {_told(begins[0])}, not from {_told(start.index)} that is given here"]
        if found:
            raise CheckpointError(
                f"{run.folder} holds another run. {'; '.join(found)}",
                hint="keep this run in another folder; to begin it with a round of the one that is there, and with its "
                f"network: pipeline.stream(fprune.load({str(run.folder)!r}, net), store=...)",
            )
        there = Environment.from_dict(said["environment"].mapped(lambda entry: entry.value))
        changed = there.differences(Environment.from_dict(now["environment"]))
        if changed:
            message = f"{run.folder}: the run goes on in another environment: {'; '.join(changed)}"
            if self.strict_env:
                raise CheckpointError(message, hint="go on where it began, or leave out strict_env=True")
            warn(EnvironmentChanged(message, hint="the last bits of results may differ"), stacklevel=4)

    def _has(self, run: Run, start: TaskResult) -> bool:
        """Whether a result to go on from is one of the run's own rounds."""
        if start.index not in rounds(run.folder):
            return False
        origin = Origin(start.task.origin, start.task.origin_masks)
        return same(result_of(run, committed(run, start.index), origin, start.task.example_inputs), start)


def _mend_origin(run: Run, start: TaskResult) -> None:
    """Write the first network anew when its file is damaged or gone: it is the one that is given here."""
    path = run.folder / ORIGIN
    found = disk.digest_file(path) if path.exists() else Written(0, "")
    try:
        as_recorded(run.entry["origin"], found.bytes, found.blake2b, path)
    except CheckpointError as error:
        warn(RoundDamaged(f"{error.message}; it is written anew"), stacklevel=5)
        tensors = origin_tensors(start)[1]
        place(run.folder, ORIGIN, parts(tensors, ORIGIN), doing="the first network", needed=tree.nbytes(tensors))


def _told(index: int) -> str:
    return "the network" if index < 0 else f"a round {index}"


def _differing_values(folder: Path, start: TaskResult) -> list[str]:
    """Which tensors of the first network have other values than those in the folder."""
    there, here = tensors_in(folder / ORIGIN), origin_tensors(start)[1]
    names = [name for name in sorted({*there, *here}) if name not in there or name not in here]
    names += [name for name in sorted({*there} & {*here}) if not same(there[name], here[name].cpu())]
    if not names:
        return ["the network's tensors lie in memory in another order, such as channels last"]
    shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [f"the values of the network differ: {shown}"]


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else than a run that was just about to begin."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, ORIGIN))
    if others:
        raise CheckpointError(
            f"{folder}: not a run, and not empty: it holds {others[0]!r}", hint="store= takes a new or empty folder"
        )


class RunSession:
    """A run that is open for writing.

    Args:
        store: the folder.
        run: its description.
        start: the state the run began with.
    """

    def __init__(self, store: RunFolder, run: Run, start: TaskResult) -> None:
        """Find the last result."""
        self._store, self._run, self._start = store, run, start
        self._origin = Origin(start.task.origin, start.task.origin_masks)
        self._inputs: Inputs | None = start.task.example_inputs
        self.latest = self._traced(newest(run, self._origin, self._inputs, after=start.index))
        parent = None if self.latest is None else committed(run, self.latest.index)
        size = tree.nbytes((start.model, start.masks)) if parent is None else parent.bytes
        self._last: list[Any] = [None if parent is None else parent.digest, size]

    def result(self, index: int) -> TaskResult | None:
        """The committed result of a round; None when it is not kept any more."""
        if index not in rounds(self._run.folder):
            return None
        return result_of(self._run, committed(self._run, index), self._origin, self._inputs)

    def _traced(self, result: TaskResult | None) -> TaskResult | None:
        """A result with the trace of the first network, where there is one."""
        if result is None:
            return None
        return result.replace(task=attrs.evolve(result.task, origin_structure=self._start.task.origin_structure))

    def ready(self) -> None:
        """Refuse to begin a round whose result would not fit on the disk."""
        needed = int(_ROOM * self._last[1])
        try:
            free = disk.free_bytes(self._run.folder)
        except OSError as error:
            raise disk.failed("the next round", self._run.folder, error, needed) from error
        if free < needed:
            raise disk.no_room("the next round", self._run.folder, needed)

    def commit(self, result: TaskResult, best: int) -> None:
        """Keep a result, and let go of those that are not needed any more."""
        folder = self._run.folder
        if result.index in rounds(folder):  # it could not be read, or comes after one that could not
            discard(folder, round_name(result.index))
        self._last[:] = keep(folder, result, self._run.digest, self._last[0])
        if self._store.keep == "last":
            for index in rounds(folder):
                if index not in (result.index, result.index - 1, best):
                    discard(folder, round_name(index))


def run_folder(
    path: str | os.PathLike[str], *, keep: Keep = "last", strict_env: bool = False, cache: StageCache | None = None
) -> RunFolder:
    """Keep a run in a folder, for `stream(..., store=...)` and `run(..., store=...)`; a bare path does so too.

    A round is written beside, forced to the disk and then given its name, so that whatever happens, power failure
    included, at most the round in flight is lost. The same call goes on where the last one stopped, and ends in the
    same bits as if nothing had happened, on the same kind of machine and with functions that do the same each time.

    Examples:
        >>> import tempfile, torch
        >>> from fprune import agp, level
        >>> net, pipeline = torch.nn.Linear(4, 4), agp(3) | level()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = [r.index for _, r in zip(range(2), pipeline.stream(net, 0.5, store=folder))]
        ...     then = [r.index for r in pipeline.stream(net, 0.5, store=run_folder(folder))]
        >>> first, then
        ([0, 1], [2, 3])

    Args:
        path: the folder; made when it is not there.
        keep: which rounds stay: `"last"`, the last two and the best so far, or `"all"`.
        strict_env: refuse to go on under another torch, machine, device or number of threads, where results may
            differ in their last bits; by default that is a warning.
        cache: what `stage_cache` gives, for stages to be used again by other runs too.

    Returns:
        What `store=` takes.

    Raises:
        ConfigTypeError: an option is something else.
    """
    if keep not in ("last", "all"):
        raise ConfigTypeError(f"keep: expected 'last' or 'all', got {keep!r}", hint='keep="all" keeps every round')
    if not isinstance(strict_env, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(f"strict_env: expected True or False, got {strict_env!r}")
    if cache is not None and not isinstance(cache, StageCache):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(f"cache: expected a cache, got {cache!r}", hint='cache=stage_cache("runs/cache")')
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(f"run_folder: expected a folder, got {path!r}", hint='run_folder("runs/a")')
    return RunFolder(Path(path).expanduser().absolute(), keep, strict_env, cache)
