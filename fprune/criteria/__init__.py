"""Criteria: pure functions that score weights, low for what should go first; one idea a file."""

from fprune.criteria.activations import activity as activity
from fprune.criteria.criterion import Criterion as Criterion
from fprune.criteria.criterion import Grain as Grain
from fprune.criteria.criterion import criterion as criterion
from fprune.criteria.curvature import curvature as curvature
from fprune.criteria.distance import geometric_distance as geometric_distance
from fprune.criteria.fisher import fisher_diagonal as fisher_diagonal
from fprune.criteria.flow import gradient_flow as gradient_flow
from fprune.criteria.gates import activation_taylor as activation_taylor
from fprune.criteria.given import given as given
from fprune.criteria.magnitude import channel_norm as channel_norm
from fprune.criteria.magnitude import magnitude as magnitude
from fprune.criteria.random import uniform as uniform
from fprune.criteria.sensitivity import sensitivity as sensitivity
from fprune.criteria.sensitivity import squared_change as squared_change
from fprune.criteria.synaptic import synaptic_flow as synaptic_flow
