"""Composition: stages, schedules and pipelines as values, joined by `|`, lifted from plain functions."""

from fprune.compose.call import Call as Call
from fprune.compose.explain import Explanation as Explanation
from fprune.compose.factory import Factory as Factory
from fprune.compose.lift import pruner as pruner
from fprune.compose.lift import schedule as schedule
from fprune.compose.lift import seeded_stage as seeded_stage
from fprune.compose.lift import stage as stage
from fprune.compose.pipeline import Pipeline as Pipeline
from fprune.compose.schedule import Schedule as Schedule
from fprune.compose.word import Stage as Stage
