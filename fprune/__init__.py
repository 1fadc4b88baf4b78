"""Functional pruning for PyTorch.

A model is an immutable tree of tensors, a pruner is a pure function from parameters and a config to masks, and a
pruning algorithm is an expression, `agp(10) | l1(dependency_aware) | finetune(train) | evaluate(f) | speed_up()`.

This file is the table of contents, in the order to read it in.
"""

# isort: off

# Pruners: what goes.
from fprune.pruners import level as level
from fprune.pruners import l1 as l1
from fprune.pruners import l2 as l2
from fprune.pruners import fpgm as fpgm
from fprune.pruners import random as random
from fprune.pruners import taylor as taylor
from fprune.pruners import snip as snip
from fprune.pruners import grasp as grasp
from fprune.pruners import synflow as synflow
from fprune.pruners import fisher as fisher
from fprune.pruners import hessian as hessian
from fprune.pruners import slim as slim
from fprune.pruners import admm as admm
from fprune.pruners import movement as movement
from fprune.pruners import apoz as apoz
from fprune.pruners import mean_activation as mean_activation

# Allocations, passed to a pruner: how the amount spreads, and what lives and dies together.
from fprune.allocate import per_layer as per_layer
from fprune.allocate import globally as globally
from fprune.allocate import dependency_aware as dependency_aware
from fprune.allocate import balanced as balanced
from fprune.allocate import n_m as n_m
from fprune.allocate import block as block
from fprune.allocate import erk as erk
from fprune.allocate import lamp as lamp
from fprune.allocate import owl as owl
from fprune.allocate import uniform_plus as uniform_plus
from fprune.allocate import isomorphic as isomorphic

# Schedules: how much each round reaches.
from fprune.schedules import one_shot as one_shot
from fprune.schedules import linear as linear
from fprune.schedules import agp as agp
from fprune.schedules import annealing as annealing
from fprune.schedules import evolve as evolve
from fprune.schedules import netadapt as netadapt
from fprune.schedules import amc as amc
from fprune.schedules import lottery as lottery
from fprune.schedules import scan as scan
from fprune.schedules import unfold as unfold

# Stages: what else a round does.
from fprune.stages import finetune as finetune
from fprune.stages import evaluate as evaluate
from fprune.stages import reset_weight as reset_weight
from fprune.stages import speed_up as speed_up
from fprune.stages import tap as tap
from fprune.stages import nested as nested

# Composition: how the above are joined, and how to write more of them.
from fprune.compose import pruner as pruner
from fprune.compose import schedule as schedule
from fprune.compose import stage as stage
from fprune.compose import Stage as Stage
from fprune.compose import Schedule as Schedule
from fprune.compose import Pipeline as Pipeline

# Records: what goes in and comes out.
from fprune.model import Model as Model
from fprune.masks import Masks as Masks
from fprune.rule import Rule as Rule
from fprune.config import Config as Config
from fprune.plan import Plan as Plan
from fprune.records import Goal as Goal
from fprune.records import Task as Task
from fprune.records import Report as Report
from fprune.records import TaskResult as TaskResult
from fprune.trained import Trained as Trained
from fprune.setting import Setting as Setting
from fprune.inputs import inputs as inputs

# Runs that survive: folders, and results read back.
from fprune.store import run_folder as run_folder
from fprune.store import stage_cache as stage_cache
from fprune.store import keyed as keyed
from fprune.store import load as load

# Functions to use on their own.
from fprune.training import hold as hold
from fprune.structure import compact as compact
from fprune.structure import verify as verify
from fprune.count import count as count
from fprune.sensitivity import sensitivity as sensitivity
from fprune.sensitivity import Sensitivity as Sensitivity

# Whole algorithms, made of the above.
from fprune.recipes import auto_compress as auto_compress

# Modules.
from fprune import structure as structure
from fprune import errors as errors

__version__ = "0.1.0"
