"""Runs on disk: folders that a run is resumed from, results read back from them, and stages that need not run again."""

from fprune.store.cache import StageCache as StageCache
from fprune.store.cache import stage_cache as stage_cache
from fprune.store.folder import RunFolder as RunFolder
from fprune.store.folder import run_folder as run_folder
from fprune.store.keyed import keyed as keyed
from fprune.store.load import load as load
from fprune.store.storage import Storage as Storage
from fprune.store.storage import parted as parted
