"""Runs on disk: folders that a run is resumed from, what it was computed with, and stages that need not run again."""

from fprune.store.keyed import keyed as keyed
