"""Criteria: pure functions that score weights, low for what should go first; one idea a file."""

from fprune.criteria.criterion import Criterion as Criterion
from fprune.criteria.criterion import Grain as Grain
from fprune.criteria.criterion import criterion as criterion
from fprune.criteria.distance import geometric_distance as geometric_distance
from fprune.criteria.magnitude import channel_norm as channel_norm
from fprune.criteria.magnitude import magnitude as magnitude
from fprune.criteria.random import uniform as uniform
