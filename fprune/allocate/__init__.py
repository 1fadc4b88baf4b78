"""Allocations: how a budget spreads over layers, and what lives and dies together."""

from fprune.allocate.budget import Allocation as Allocation
from fprune.allocate.dependency_aware import dependency_aware as dependency_aware
from fprune.allocate.globally import globally as globally
from fprune.allocate.patterns import balanced as balanced
from fprune.allocate.patterns import n_m as n_m
from fprune.allocate.per_layer import per_layer as per_layer
from fprune.allocate.selection import lowest as lowest
