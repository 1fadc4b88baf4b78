"""A cache of stages: what was made of the same input by the same function need not be made again."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final
from warnings import warn

import attrs

from fprune.checkpoint.commit import STAGING, TRASH, discard
from fprune.checkpoint.disk import remove
from fprune.checkpoint.environment import environment
from fprune.errors import CheckpointError, ConfigTypeError, FpruneError, NotKept, RoundDamaged
from fprune.hashing import digest
from fprune.records import TaskResult
from fprune.store.code import package_digest
from fprune.store.digests import Digests
from fprune.store.keys import Look, key
from fprune.store.outcomes import FORMAT, keep, kept

__all__ = ["Remembered", "StageCache", "stage_cache"]

_A_DAY = 86400.0

Make = Callable[[TaskResult], TaskResult]
Through = Callable[[Any, TaskResult], TaskResult]


class Called(Protocol):
    """The part of a stage's call that is looked at here."""

    @property
    def key_parts(self) -> tuple[Any, Mapping[str, Any], Any]:
        """The function, its options by name with the defaults filled in, and what else its outcome depends on."""
        ...

    @property
    def reads(self) -> str:
        """What the outcome depends on."""
        ...


@final
@attrs.frozen
class StageCache:
    """A folder of outcomes of stages; made by `stage_cache`.

    Args:
        path: the folder.
    """

    path: Path

    def step(self, calls: Sequence[Called], through: Through, start: TaskResult) -> Make:
        """A function that does what a stage does, and leaves out what has been done before.

        Args:
            calls: those of the stage.
            through: applies them, given who knows what comes of some of them.
            start: the state the run begins with.

        Raises:
            ConfigTypeError: an argument of a stage, or an example input, has no content that could be hashed.
            CheckpointError: the folder cannot be made.
        """
        remembered = self.remembered(calls, start)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _sweep(self.path)
        except OSError as error:
            hint = "stage_cache takes a folder that can be written to"
            raise CheckpointError(f"{self.path}: cannot be used: {error.strerror}", hint=hint) from error
        return partial(through, remembered)

    def remembered(self, calls: Sequence[Called], start: TaskResult) -> "Remembered":
        """What is known of the outcomes of a stage's calls."""
        digests = Digests()
        key(start.task.example_inputs, "example_inputs", digests)
        return Remembered(self.path, tuple((repr(call), _key_of(call, digests)) for call in calls), digests)


@final
@attrs.frozen(eq=False)
class Remembered:
    """The outcomes of the calls of a stage: from disk where they are, else made and put there.

    Args:
        folder: the cache.
        calls: text and key of each call; no key for a call that is made each time.
        digests: what is known of tensors.
    """

    folder: Path
    calls: tuple[tuple[str, str], ...]
    digests: Digests

    def __call__(self, place: int, seed: int, given: TaskResult, make: Make) -> TaskResult:
        """The outcome of a call.

        Args:
            place: which of the calls.
            seed: its seed.
            given: what it is shown.
            make: makes the outcome.
        """
        text, call = self.calls[place]
        if not call:
            return make(given)
        name = self.key(place, seed, given)
        found = self.found(name, given)
        if found is not None:
            return found
        made = make(given)
        try:
            keep(self.folder, name, text, given, made, self.digests)
        except FpruneError as error:
            if not (self.folder / name).exists():  # else another process was faster
                warn(
                    NotKept(f"{self.folder}: what {text} made is not kept: {error.message}", hint=error.hint),
                    stacklevel=2,
                )
        return made

    def known(self, place: int, seed: int, given: TaskResult) -> TaskResult | None:
        """The outcome of a call as far as it is on disk and undamaged; nothing is run or changed."""
        if not self.calls[place][1]:
            return None
        try:
            return kept(self.folder, self.key(place, seed, given), given, self.digests)
        except CheckpointError:
            return None

    def key(self, place: int, seed: int, given: TaskResult) -> str:
        """The key of a call on what it is shown."""
        text, call = self.calls[place]
        here = environment(given.model.device).to_dict()
        seen = Look(f"{text}: what it is given", self.digests).at(given)
        return digest(("outcome", FORMAT, package_digest(), here, call, seed, seen))

    def found(self, name: str, given: TaskResult) -> TaskResult | None:
        """The outcome on disk; one that is damaged is taken away, with a warning."""
        try:
            return kept(self.folder, name, given, self.digests)
        except CheckpointError as error:
            if not (self.folder / name).exists():  # another process took it away
                return None
            warn(RoundDamaged(f"{error.message}; the stage runs again", hint=error.hint), stacklevel=3)
            with suppress(CheckpointError):  # another process took it away
                discard(self.folder, name)
            return None


def _key_of(call: Called, digests: Digests) -> str:
    """The key of a function and its options; none for a stage that is there for its effect."""
    if call.reads not in ("tensors", "record"):
        return ""
    fn, options, more = call.key_parts
    told = [(name, key(value, f"{call!r}: {name}", digests)) for name, value in options.items()]
    return digest((call.reads, more, key(fn, repr(call), digests), told))


def _sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote; others may be writing now."""
    for path in _unfinished(folder):
        with suppress(FileNotFoundError):  # it has got its name in the meantime
            if time.time() - path.stat().st_mtime > _A_DAY:
                remove(path)


def _unfinished(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name.startswith((STAGING, TRASH)))


def stage_cache(path: str | os.PathLike[str]) -> StageCache:
    """Keep what stages make in a folder, so that a run only does what no run before it has done.

    What a stage makes is found again by its function, its options, and all that it reads: the tensors, the goal, the
    seed. After a change of the pruner, what comes before it is not run again; with a stage more at the end, nothing is
    but that stage. Functions are known by their code and what they read from around them, data by its bytes; what
    cannot be told so, such as a DataLoader, is given a key with `keyed`. Runs may share a cache, also at the same time.
    It only grows, and may be removed at any time.

    Examples:
        >>> import tempfile, torch
        >>> from fprune import evaluate, finetune, level, one_shot
        >>> def train(module):
        ...     print("training")
        >>> net = torch.nn.Linear(4, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = stage_cache(folder)
        ...     first = (one_shot() | level() | finetune(train)).run(net, 0.5, store=cache)
        ...     longer = one_shot() | level() | finetune(train) | evaluate(lambda module: 0.5)
        ...     longer.run(net, 0.5, store=cache).score
        training
        0.5

    Args:
        path: the folder; made when it is not there.

    Returns:
        What `store=` takes, alone or in a `run_folder(path, cache=...)`.

    Raises:
        ConfigTypeError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(f"stage_cache: expected a folder, got {path!r}", hint='stage_cache("runs/cache")')
    return StageCache(Path(path).expanduser().absolute())
