"""Training: private copies of models, pruned weights held at zero, penalties, and a loop for those who bring none."""

from fprune.training.hold import hold as hold
from fprune.training.private import Train as Train
from fprune.training.private import trained as trained
