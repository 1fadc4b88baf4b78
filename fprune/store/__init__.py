"""Runs on disk: folders that a run is resumed from, and what it was computed with."""
