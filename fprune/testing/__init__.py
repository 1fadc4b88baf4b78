"""The laws of pruners, schedules, stages and pipelines, to run on one of your own.

They need hypothesis: `pip install "fprune[testing]"`. A law that does not hold is a `LawViolation`, an `AssertionError`
whose message has the smallest example found, as code.
"""

from fprune.testing.check import LAWS as LAWS
from fprune.testing.check import check_pipeline as check_pipeline
from fprune.testing.check import check_pruner as check_pruner
from fprune.testing.check import check_schedule as check_schedule
from fprune.testing.check import check_stage as check_stage
from fprune.testing.law import Law as Law
from fprune.testing.watch import untouched as untouched
