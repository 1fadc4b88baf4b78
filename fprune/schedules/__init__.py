"""Schedules: what each round should reach. One file each, a generator that reads like the paper."""

from fprune.schedules.agp import agp as agp
from fprune.schedules.amc import amc as amc
from fprune.schedules.annealing import annealing as annealing
from fprune.schedules.evolve import evolve as evolve
from fprune.schedules.linear import linear as linear
from fprune.schedules.lottery import lottery as lottery
from fprune.schedules.netadapt import netadapt as netadapt
from fprune.schedules.one_shot import one_shot as one_shot
from fprune.schedules.scan import scan as scan
from fprune.schedules.unfold import unfold as unfold
