"""Hypothesis strategies for everything fprune takes: weights, networks, configs, schedules, pipelines, histories.

They need hypothesis: `pip install "fprune[testing]"`. Weights are small integers stored as floats: sums are exact, so
laws hold to the last bit, and scores are often equal. Where fprune is installed, `st.from_type(fprune.Config)` and the
like work as soon as fprune and hypothesis are imported.
"""

from fprune.strategies.architectures import Mean as Mean
from fprune.strategies.architectures import Part as Part
from fprune.strategies.architectures import Residual as Residual
from fprune.strategies.architectures import Tied as Tied
from fprune.strategies.architectures import distinct as distinct
from fprune.strategies.architectures import filled as filled
from fprune.strategies.architectures import integers as integers
from fprune.strategies.configs import configs as configs
from fprune.strategies.configs import goals as goals
from fprune.strategies.configs import sparsities as sparsities
from fprune.strategies.histories import histories as histories
from fprune.strategies.histories import reached as reached
from fprune.strategies.histories import reports as reports
from fprune.strategies.histories import results as results
from fprune.strategies.networks import Network as Network
from fprune.strategies.networks import models as models
from fprune.strategies.networks import modules as modules
from fprune.strategies.networks import networks as networks
from fprune.strategies.pipelines import joined as joined
from fprune.strategies.pipelines import pipelines as pipelines
from fprune.strategies.pipelines import pruners as pruners
from fprune.strategies.pipelines import schedules as schedules
from fprune.strategies.pipelines import stages as stages
from fprune.strategies.pipelines import words as words
from fprune.strategies.tensors import masks as masks
from fprune.strategies.tensors import params as params
from fprune.strategies.tensors import tensors as tensors
from fprune.strategies.training import SignSGD as SignSGD
from fprune.strategies.training import example as example
from fprune.strategies.training import look as look
from fprune.strategies.training import score as score
from fprune.strategies.training import shuffle as shuffle
from fprune.strategies.training import step as step
from fprune.strategies.types import register as register

register()
