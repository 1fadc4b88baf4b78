"""What a run would not have to do again: the rounds in its folder, and the outcomes in a cache."""

from collections.abc import Callable
from functools import partial

import attrs

from fprune.compose.word import Stage
from fprune.records import TaskResult
from fprune.store import RunFolder, StageCache
from fprune.stream import Store, Stream

Row = tuple[str, str, str]
"""Round, stage, and whether it is `done`, is `reused`, `runs`, or `unknown`."""


class _EndOfKnowledge(Exception):
    """A stage has to run before more can be said."""


def foretold(stage: Stage, stream: Stream, rounds: Store | None, cache: StageCache | None) -> tuple[Row, ...]:
    """What of a run is there already.

    Rounds in a run's folder are done. From there on the keys of stages are followed, from the outcome of one to the key
    of the next, as long as the cache has their outcomes.

    Args:
        stage: what each round does.
        stream: the run.
        rounds: where its rounds are kept.
        cache: where outcomes of stages are.

    Raises:
        CheckpointError: the folder holds another run.
        ConfigTypeError: something that a stage is given has no key.
    """
    latest = rounds.latest(stream.start, stream.name) if isinstance(rounds, RunFolder) else None
    first = stream.start.index + 1
    rows = [] if latest is None else [(str(i), "all", "done") for i in range(first, latest.index + 1)]
    stream = stream if latest is None else attrs.evolve(stream, start=latest)
    return (*rows, *_followed(stage, stream, cache))


def _followed(stage: Stage, stream: Stream, cache: StageCache | None) -> list[Row]:
    rows: list[Row] = []
    remembered = None if cache is None else cache.remembered(stage.calls, stream.start)

    def outcome(place: int, seed: int, given: TaskResult, make: Callable[[TaskResult], TaskResult]) -> TaskResult:
        del make  # it would run
        call = stage.calls[place]
        if call.reads == "nothing":
            rows.append((str(given.index), repr(call), "runs"))
            return given
        found = None if remembered is None else remembered.known(place, seed, given)
        rows.append((str(given.index), repr(call), "runs" if found is None else "reused"))
        if found is None:
            rows.extend((str(given.index), repr(later), "unknown") for later in stage.calls[place + 1 :])
            rows.append((f"{given.index + 1}, ...", "", "unknown"))
            raise _EndOfKnowledge
        return found

    try:
        for _ in attrs.evolve(stream, step=partial(stage.through, outcome), store=None):
            pass
    except _EndOfKnowledge:
        pass
    return rows
