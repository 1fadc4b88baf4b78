"""One result in a folder of its own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fprune import tree
from fprune.checkpoint import disk
from fprune.checkpoint.commit import staged
from fprune.checkpoint.layout import begin, keep
from fprune.errors import CheckpointError

if TYPE_CHECKING:
    from fprune.records import TaskResult

__all__ = ["save"]


def save(result: "TaskResult", path: str | os.PathLike[str]) -> None:
    """Write a result and the network its run began with into a new folder; `fprune.load` reads it.

    Args:
        result: the result of a round.
        path: the folder; there must be nothing yet.

    Raises:
        CheckpointError: there is something, or it cannot be written; then nothing is left of it.
    """
    target = Path(path)
    if result.index < 0:
        raise CheckpointError(f"{target}: no round has run, so there is no result", hint="run the pipeline first")
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target}: there is something already", hint="save under a new name, or remove it")
    needed = tree.nbytes((result.origin, result.model))
    try:
        disk.make_folders(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target.parent}: cannot be made: {error.strerror}") from error
    with staged(target.parent, target.name, doing="the result", needed=needed) as staging:
        keep(staging, result, disk.digest_of(begin(staging, result, None)), None)
