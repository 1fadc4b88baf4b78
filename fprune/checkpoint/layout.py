"""The names in a run's folder, and how its files are written.

RUN/run.json                     what runs: pipeline, config, seed, the network's shapes, environment; written once
RUN/origin.safetensors           the network the run began with
RUN/it-000003/state.safetensors  the tensors of a round
RUN/it-000003/manifest.json      all else of the round, the digest of its tensors, and that of the round before
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fprune import tree
from fprune.checkpoint import disk
from fprune.checkpoint.commit import place, staged
from fprune.checkpoint.disk import Written
from fprune.checkpoint.encode import encoded, origin_tensors, template
from fprune.checkpoint.environment import environment
from fprune.checkpoint.form import modes
from fprune.checkpoint.reports import config_record
from fprune.checkpoint.seal import sealed
from fprune.checkpoint.tensors import parts

if TYPE_CHECKING:
    from fprune.records import TaskResult

__all__ = ["FORMAT", "MANIFEST", "ORIGIN", "RUN", "STATE", "begin", "described_run", "keep", "round_name"]

FORMAT = 1
RUN, ORIGIN, STATE, MANIFEST = "run.json", "origin.safetensors", "state.safetensors", "manifest.json"

_RECORDS = 1 << 20
"""About how many bytes the files other than tensors take."""


def round_name(index: int) -> str:
    """The folder of a round.

    Examples:
        >>> round_name(3)
        'it-000003'
    """
    return f"it-{index:06d}"


def described_run(start: "TaskResult", pipeline: str | None, origin: Written) -> dict[str, Any]:
    """What a run is: two runs with the same description make the same rounds.

    Args:
        start: the state it begins with.
        pipeline: the expression; None for a result that was saved by itself.
        origin: size and digest of the file with the first network.
    """
    task = start.task
    return {
        "format": FORMAT,
        "pipeline": pipeline,
        "config": config_record(task.target),
        "seed": task.seed,
        "example_inputs": None if task.example_inputs is None else repr(task.example_inputs),
        "start": start.index,
        "begins_with": _digest_of_result(start),
        "network": template(task.origin),
        "modes": modes(task.origin.skeleton),
        "masks": origin_tensors(start)[0],
        "origin": {"bytes": origin.bytes, "blake2b": origin.blake2b},
        "environment": environment(task.origin.device).to_dict(),
    }


def _digest_of_result(start: "TaskResult") -> str | None:
    """What a run goes on from, when it does not begin anew."""
    if start.index < 0:
        return None
    record, tensors = encoded(start)
    return disk.digest_of(sealed(record, RUN) + disk.digest_parts(parts(tensors, STATE)).blake2b.encode())


def begin(folder: Path, start: "TaskResult", pipeline: str | None) -> bytes:
    """Write what holds for all rounds of a run: the first network, then the description that makes it a run.

    Args:
        folder: the run's folder; it exists.
        start: the state the run begins with.
        pipeline: the expression.

    Returns:
        The bytes of the description.

    Raises:
        CheckpointError: it could not be done.
    """
    needed = tree.nbytes((start.task.origin, start.task.origin_masks)) + _RECORDS
    written = place(folder, ORIGIN, parts(origin_tensors(start)[1], ORIGIN), doing="the first network", needed=needed)
    description = sealed(described_run(start, pipeline, written), RUN)
    place(folder, RUN, [description], doing="the description of the run", needed=_RECORDS)
    return description


def keep(folder: Path, result: "TaskResult", run: str, parent: str | None) -> tuple[str, int]:
    """Commit the result of a round.

    Args:
        folder: the run's folder.
        result: the result.
        run: digest of the run's description.
        parent: digest of the manifest of the round before; None for the first.

    Returns:
        The digest of the manifest, and how many bytes the round takes.

    Raises:
        CheckpointError: it could not be done; nothing of it is left.
    """
    record, tensors = encoded(result)
    name = round_name(result.index)
    needed = tree.nbytes(tensors) + _RECORDS
    with staged(folder, name, doing=f"round {result.index}", needed=needed) as staging:
        state = disk.write_file(staging / STATE, parts(tensors, f"{name}/{STATE}"))
        files = {STATE: {"bytes": state.bytes, "blake2b": state.blake2b}}
        manifest = {"format": FORMAT, "run": run, "parent": parent, "files": files, "result": record}
        text = sealed(manifest, f"{name}/{MANIFEST}")
        disk.write_file(staging / MANIFEST, [text])
    return disk.digest_of(text), state.bytes + len(text)
