"""Results read back from a run's folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast
from warnings import warn

import attrs
from torch import Tensor, nn

from fprune.checkpoint import disk
from fprune.checkpoint.decode import decoded, decoded_origin
from fprune.checkpoint.encode import template as described
from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.layout import FORMAT, MANIFEST, ORIGIN, RUN, STATE, round_name
from fprune.checkpoint.seal import LIMIT, unsealed
from fprune.checkpoint.tensors import read
from fprune.errors import CheckpointError, ConfigTypeError, RoundDamaged
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import TaskResult
from fprune.store.form import rebuilt
from fprune.stream import Best

__all__ = ["Committed", "Origin", "Run", "load", "newest", "rounds", "run_of"]


@attrs.frozen
class Run:
    """A run's folder and its description.

    Args:
        folder: the folder.
        entry: the description.
        digest: its digest, which every round names.
    """

    folder: Path
    entry: Entry
    digest: str


@attrs.frozen(eq=False)
class Origin:
    """The network a run began with, and its masks."""

    model: Model
    masks: Masks


@attrs.frozen
class Committed:
    """The manifest of a round whose files are as they were written.

    Args:
        index: the round.
        entry: the manifest.
        digest: its digest.
        bytes: how many bytes the round takes.
    """

    index: int
    entry: Entry
    digest: str
    bytes: int


def run_of(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        CheckpointError: there is none, or its description is damaged.
    """
    path = folder / RUN
    if not path.exists():
        raise CheckpointError(
            f"{folder}: there is no {RUN}, so this is no run", hint="the folder that was given as store=, or to save()"
        )
    data = disk.read_file(path, LIMIT)
    entry = unsealed(data, str(path))
    _of_this_format(entry)
    return Run(folder, entry, disk.digest_of(data))


def _of_this_format(entry: Entry) -> None:
    found = entry["format"].integer(1)
    if found != FORMAT:
        raise damaged(
            entry.file, f"format {found}, expected {FORMAT}", hint="it was written by another version of fprune"
        )


def rounds(folder: Path) -> list[int]:
    """The rounds that are in a run's folder, whether they can be read or not, oldest first."""
    try:
        names = [path.name for path in folder.iterdir() if path.name.startswith("it-")]
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}", hint="the folder of a run stays until it ends") from error
    found = [int(name[3:]) for name in names if name[3:].isascii() and name[3:].isdecimal()]
    return sorted(index for index in found if round_name(index) in names)


def committed(run: Run, index: int) -> Committed:
    """The manifest of a round, after its files were compared with their digests.

    Raises:
        CheckpointError: the round is damaged, or of another run.
    """
    folder = run.folder / round_name(index)
    if folder.is_symlink():
        raise damaged(str(folder), "a symbolic link, expected a folder of its own")
    data = disk.read_file(folder / MANIFEST, LIMIT)
    entry = unsealed(data, str(folder / MANIFEST))
    _of_this_format(entry)
    if entry["run"].text() != run.digest:
        raise damaged(entry.file, "the round belongs to another run")
    if entry["result"]["round"].integer() != index:
        raise damaged(entry.file, f"it is of round {entry['result']['round'].integer()}")
    said, found = entry["files"].only(STATE)[STATE], disk.digest_file(folder / STATE)
    as_recorded(said, found.bytes, found.blake2b, folder / STATE)
    return Committed(index, entry, disk.digest_of(data), found.bytes + len(data))


def as_recorded(said: Entry, size: int, digest: str, path: Path) -> None:
    """Compare a file with what is on record of it.

    Raises:
        CheckpointError: it is another one.
    """
    if said["bytes"].integer(0) != size:
        raise damaged(str(path), f"{size:,} bytes, expected {said['bytes'].integer():,}")
    if said["blake2b"].text() != digest:
        raise damaged(str(path), "its digest is not the one on record")


def origin_of(run: Run, template: Model) -> Origin:
    """The network a run began with, in the code of another one of its kind.

    Raises:
        CheckpointError: the other one is of another kind, or the file is damaged.
    """
    there = differences_of_networks(run.entry["network"], described(template))
    if there:
        raise CheckpointError(
            f"{run.folder}: the network is another one than the template: {'; '.join(there)}",
            hint="pass an instance of the class the run began with, made with the same arguments",
        )
    path = run.folder / ORIGIN
    found = disk.digest_file(path)
    as_recorded(run.entry["origin"], found.bytes, found.blake2b, path)
    return Origin(*decoded_origin(run.entry["masks"]["masks"], tensors_in(path), template))


def differences_of_networks(then: Entry, now: Mapping[str, Any]) -> list[str]:
    """What is not the same in the kinds of two networks, the first few of each sort."""
    found: list[str] = []
    for what, noun in (("modules", "module"), ("tensors", "tensor"), ("ties", "tie")):
        old, new = dict(then[what].mapped(lambda entry: entry.value)), dict(now[what])
        differing = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        found += [f"{noun} {name!r} {_compared(old.get(name), new.get(name))}" for name in differing[:3]] + (
            [f"{len(differing) - 3} more of {what}"] if len(differing) > 3 else []
        )
    if not found and then["buffers"].each(Entry.text) != tuple(now["buffers"]):
        found.append("some buffers are parameters now, or the other way round")
    return found


def _compared(old: Any, new: Any) -> str:
    """How one module, tensor or tie differs from another."""
    if isinstance(old, dict) and isinstance(new, dict):
        then, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        if then.get("class") == now.get("class"):
            name = next(name for name in sorted({*then, *now}) if then.get(name) != now.get(name))
            return f"has {name} {now.get(name)!r}, had {then.get(name)!r}"
    return f"is {_brief(new)}, was {_brief(old)}"


def _brief(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, dict):
        return str(cast("dict[str, object]", value).get("class"))
    if isinstance(value, list) and value:
        dtype, *shape = cast("list[Any]", value)
        return f"{dtype}{shape}"
    return f"{value}"


def result_of(run: Run, found: Committed, origin: Origin, example_inputs: Inputs | None) -> TaskResult:
    """The result of a round.

    Raises:
        CheckpointError: its parts do not fit together.
    """
    tensors = tensors_in(run.folder / round_name(found.index) / STATE)
    return decoded(found.entry["result"], tensors, origin.model, origin.masks, example_inputs, rebuilt)


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, each in memory of its own."""
    descriptor, _ = disk.open_regular(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return read(file, str(path))


def newest(run: Run, origin: Origin, example_inputs: Inputs | None, after: int = -1) -> TaskResult | None:
    """The newest result that can be read; a warning names each newer one that cannot.

    Args:
        run: the run.
        origin: the network it began with.
        example_inputs: arguments of a forward pass.
        after: only rounds after this one count.

    Raises:
        CheckpointError: there are rounds, and none of them can be read.
    """
    reasons: list[str] = []
    for index in reversed([index for index in rounds(run.folder) if index > after]):
        try:
            result = result_of(run, committed(run, index), origin, example_inputs)
        except CheckpointError as error:
            if not (run.folder / round_name(index)).exists():  # a run that goes on has let go of it
                return newest(run, origin, example_inputs, after)
            reasons.append(error.message)
            continue
        for reason in reasons:
            warn(RoundDamaged(f"{reason}; the run goes on from round {index}"), stacklevel=2)
        return result
    if reasons:
        raise CheckpointError(
            f"{run.folder}: no round can be read: {'; '.join(reasons)}", hint="begin anew in another folder"
        )
    return None


def load(
    path: str | os.PathLike[str],
    template: nn.Module | Model,
    *,
    round: int | Literal["newest", "best"] = "newest",
    example_inputs: object = None,
) -> TaskResult:
    """Read a result from the folder of a run, or from one that `result.save` wrote.

    Nothing in the folder is code, and none is run: the template brings the class, the folder sizes and values.

    Examples:
        >>> import tempfile, torch
        >>> from fprune import agp, level
        >>> net, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = (agp(2) | level()).run(net, 0.5, store=f"{folder}/a")
        ...     result == load(f"{folder}/a", other)
        True

    Args:
        path: the folder.
        template: a network of the class the run began with, made with the same arguments; its values do not matter.
        round: which one: a number, the newest, or the best as `run` chooses it.
        example_inputs: what the model's forward takes, for stages that trace it; needed here too for the few compact
            models that are a generated graph.

    Returns:
        The result; `.module()` is a plain module, and pipelines go on from it.

    Raises:
        CheckpointError: there is no such result, it is damaged, or of another network; names the file and the reason.
    """
    run = run_of(Path(path).expanduser())
    given = Inputs.of(example_inputs)
    origin = origin_of(run, Model.of(template))
    if isinstance(round, bool) or not (isinstance(round, int) or round in ("newest", "best")):
        raise ConfigTypeError(f"round: expected a number, 'newest' or 'best', got {round!r}", hint="round=3")
    result = newest(run, origin, given) if isinstance(round, str) else None
    if result is not None and round == "best":
        start = run.entry["start"].integer(-1)
        best = Best(None)
        for report in (report for report in (*result.history, result.report) if report.index > start):
            best = best.after(report)
        return result if best.index == result.index else _numbered(run, best.index, origin, given)
    if isinstance(round, int):
        return _numbered(run, round, origin, given)
    if result is None:
        raise CheckpointError(f"{run.folder}: no round was committed", hint="run the pipeline with store= first")
    return result


def _numbered(run: Run, index: int, origin: Origin, example_inputs: Inputs | None) -> TaskResult:
    kept = rounds(run.folder)
    if index not in kept:
        raise CheckpointError(
            f"{run.folder}: round {index} is not kept; there are {', '.join(map(str, kept)) or 'none'}",
            hint='keep every round: store=fprune.run_folder(path, keep="all")',
        )
    return result_of(run, committed(run, index), origin, example_inputs)
