"""Allocations: how a budget spreads over layers, and what lives and dies together."""

from fprune.allocate.block import block as block
from fprune.allocate.budget import Allocation as Allocation
from fprune.allocate.dependency_aware import dependency_aware as dependency_aware
from fprune.allocate.erk import erk as erk
from fprune.allocate.globally import globally as globally
from fprune.allocate.isomorphic import isomorphic as isomorphic
from fprune.allocate.lamp import lamp as lamp
from fprune.allocate.owl import owl as owl
from fprune.allocate.patterns import balanced as balanced
from fprune.allocate.patterns import n_m as n_m
from fprune.allocate.per_layer import per_layer as per_layer
from fprune.allocate.selection import lowest as lowest
from fprune.allocate.uniform_plus import uniform_plus as uniform_plus
