"""What `store=` takes: where rounds are kept, where outcomes of stages are, or both."""

from os import PathLike
from typing import TypeAlias

from fprune.errors import ConfigTypeError
from fprune.store.cache import StageCache
from fprune.store.folder import run_folder
from fprune.stream import Store

__all__ = ["Storage", "parted"]

Storage: TypeAlias = Store | StageCache | str | PathLike[str]


def parted(store: Storage | None) -> tuple[Store | None, StageCache | None]:
    """Where rounds are kept, and where what stages make.

    Examples:
        >>> from fprune.store import stage_cache
        >>> parted("runs/a")[1], parted(stage_cache("runs/cache"))[0]
        (None, None)

    Args:
        store: what the user gave.

    Raises:
        ConfigTypeError: it is neither.
    """
    if isinstance(store, StageCache):
        return None, store
    rounds = run_folder(store) if isinstance(store, str | PathLike) else store
    if not isinstance(rounds, Store | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigTypeError(
            f"store: expected a folder, a run_folder(...) or a stage_cache(...), got {store!r}",
            hint='store="runs/a", or leave it out to keep nothing',
        )
    cache: object = getattr(rounds, "cache", None)
    return rounds, cache if isinstance(cache, StageCache) else None
