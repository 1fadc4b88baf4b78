"""Pruners under the names users know: a criterion, and an allocation as the option.

To add one, copy its neighbour: a function of parameters and config that ends in
`allocation(criterion, params, config)`.
"""

from fprune.pruners.activations import apoz as apoz
from fprune.pruners.activations import mean_activation as mean_activation
from fprune.pruners.admm import admm as admm
from fprune.pruners.curvature import fisher as fisher
from fprune.pruners.curvature import hessian as hessian
from fprune.pruners.gradients import grasp as grasp
from fprune.pruners.gradients import snip as snip
from fprune.pruners.gradients import synflow as synflow
from fprune.pruners.gradients import taylor as taylor
from fprune.pruners.movement import movement as movement
from fprune.pruners.slim import slim as slim
from fprune.pruners.weights import fpgm as fpgm
from fprune.pruners.weights import l1 as l1
from fprune.pruners.weights import l2 as l2
from fprune.pruners.weights import level as level
from fprune.pruners.weights import random as random
