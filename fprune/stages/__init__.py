"""Stages: what a round does. One file each, a function from a record to the next."""

from fprune.stages.evaluate import evaluate as evaluate
from fprune.stages.finetune import finetune as finetune
from fprune.stages.nested import nested as nested
from fprune.stages.reset_weight import reset_weight as reset_weight
from fprune.stages.speed_up import speed_up as speed_up
from fprune.stages.tap import tap as tap
