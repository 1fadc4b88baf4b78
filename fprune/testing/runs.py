"""Runs to try stages and pipelines on: a network, a config, a seed."""

from functools import cached_property
from typing import Any, final

import attrs
import torch
from torch import nn

from fprune.allocate import dependency_aware
from fprune.compose import Pipeline, Stage
from fprune.config import Config
from fprune.equality import field_names, same
from fprune.inputs import Inputs
from fprune.pruners import l1, level
from fprune.records import Goal, TaskResult
from fprune.run import Stream
from fprune.strategies import Network, configs, filled, networks
from fprune.strategies.hypothesis import st
from fprune.testing.law import Piece

_IMPORTS = (
    "import torch",
    "from torch import nn",
    "from fprune import Config, Goal, Rule, TaskResult, dependency_aware, l1, level",
    "from fprune.strategies import Mean, Residual, Tied, filled, integers",
)


@final
@attrs.frozen(eq=False)
class Run:
    """A run of a pipeline.

    Args:
        piece: the pipeline, or a stage.
        net: the network.
        config: what to prune and how much.
        seed: of the run.
        inputs: what the network's forward takes.
        text: the expression of the network.
        inputs_text: the expression of the inputs.
    """

    piece: Piece
    net: nn.Module
    config: Config
    seed: int
    inputs: Inputs | None
    text: str
    inputs_text: str

    def code(self, piece: Piece) -> list[str]:
        """The lines that run it again."""
        options = f"example_inputs={self.inputs_text}, seed={self.seed}"
        return [*self.setting, f"results = list(({piece.value!r}).stream(net, config, {options}))"]

    @property
    def setting(self) -> list[str]:
        """The lines that make the network and the config."""
        return [*_IMPORTS, f"net = {self.text}", f"config = {self.config!r}"]

    def stream(self, pipeline: Pipeline | None = None, net: nn.Module | None = None) -> Stream:
        """The run, described anew."""
        found = self.piece.value if pipeline is None else pipeline
        return found.stream(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
            self.net if net is None else net, self.config, example_inputs=self.inputs, seed=self.seed
        )

    @cached_property
    def results(self) -> list[TaskResult]:
        """The results of all rounds."""
        return list(self.stream())


@final
@attrs.frozen(eq=False)
class Round:
    """A round that a stage is tried on, some of the network pruned already.

    Args:
        run: the network, the config and the seed.
        before: the pruner that ran before, if one did.
    """

    run: Run
    before: Stage

    def code(self, piece: Piece) -> list[str]:
        """The lines that make the round again."""
        run = self.run
        options = f"example_inputs={run.inputs_text}, seed={run.seed}"
        word = repr(self.before | piece.stage)
        return [
            *run.setting,
            f"start = TaskResult.start(net, config, {options}).next(Goal(config, final=True))",
            f"result = ({word})(start)",
        ]

    @cached_property
    def given(self) -> TaskResult:
        """The record that the stage is given."""
        run = self.run
        start = TaskResult.start(run.net, run.config, example_inputs=run.inputs, seed=run.seed)
        found = self.before(start.next(Goal(run.config, final=True)))
        return found.replace(score=0.5) if "score" in run.piece.value.needs else found

    def after(self, given: TaskResult | None = None) -> TaskResult:
        """What the stage makes of it."""
        return self.run.piece.stage(self.given if given is None else given)


@st.composite
def runs(draw: st.DrawFn, piece: Piece) -> Run:
    """Runs on drawn networks, or on the network that was given with integer weights."""
    if piece.model is not None:
        dtype = next((value.dtype for value in piece.model.values() if value.is_floating_point()), torch.float32)
        seed = draw(st.integers(0, 2**16))
        net = filled(piece.model.to_module(), seed=seed, dtype=dtype).train(piece.model.training)
        config = Config(draw(st.sampled_from([0.25, 0.5]))) if piece.config is None else piece.config
        text = f"filled(net, seed={seed}, dtype={dtype})  # net: the model you passed"
        return Run(piece, net, config, draw(st.integers(0, 3)), piece.inputs, text, "example_inputs")
    network: Network = draw(networks())
    config = draw(configs(network)) if piece.config is None else piece.config
    inputs, text = Inputs.of(network.inputs), repr(network)
    return Run(piece, network.net, config, draw(st.integers(0, 3)), inputs, text, network.inputs_code)


@st.composite
def rounds(draw: st.DrawFn, piece: Piece) -> Round:
    """Rounds in which nothing, single weights, filters, or filters with all that goes with them are pruned."""
    run = draw(runs(piece))
    masked = [level(), l1()] if run.inputs is None else [level(), l1(), l1(dependency_aware)]
    return Round(run, draw(st.sampled_from(masked if "masks" in piece.value.needs else [Stage(), *masked])))


def fields_that_differ(a: Any, b: Any, *, without: tuple[str, ...] = ()) -> list[str]:
    """The names of the fields in which two records of one class differ."""
    return [
        name for name in field_names(a) or () if name not in without and not same(getattr(a, name), getattr(b, name))
    ]
