"""A law: what has to hold of a pruner, schedule, stage or pipeline, for examples that are drawn."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, final

import attrs
from torch import Tensor

from fprune.compose import Pipeline, Schedule, Stage
from fprune.config import Config
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.strategies.hypothesis import st

Kind = Literal["pruner", "schedule", "stage", "pipeline"]
Scores = Callable[[Any], Any]


class Example(Protocol):
    """What a law is tried on; it can be written down as code."""

    def code(self, piece: Any) -> list[str]:
        """The lines that make it again."""
        ...


@final
@attrs.frozen(eq=False)
class Piece:
    """What is checked, and what it needs.

    Args:
        value: a stage, a schedule or a pipeline.
        model: the model to try it on; None for drawn ones.
        config: the config to try it with; None for drawn ones.
        inputs: what the model's forward takes.
        scores: what a pruner goes by, a function of the parameters; name -> a score for each element or unit.
        names: what further names in the expression of a pipeline stand for.
    """

    value: Stage | Schedule | Pipeline
    model: Model | None = None
    config: Config | None = None
    inputs: Inputs | None = None
    scores: Callable[[Any], Mapping[str, Tensor]] | None = None
    names: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def stage(self) -> Stage:
        """The value of a piece that is a stage or a pruner, or the stages of a pipeline."""
        if isinstance(self.value, Schedule):
            return Stage()
        return self.value.stage if isinstance(self.value, Pipeline) else self.value

    @property
    def schedule(self) -> Schedule:
        """The value of a piece that is a schedule, or the schedule of a pipeline."""
        found = self.value.schedule if isinstance(self.value, Pipeline) else self.value
        return found if isinstance(found, Schedule) else Schedule(())

    @property
    def structural(self) -> bool:
        """Whether it traces the model it is given."""
        return bool(self.value.needs & {"structure", "example_inputs"})

    @property
    def plain(self) -> bool:
        """Whether a pruner is tried on mappings of tensors rather than on models."""
        return self.model is None and not self.structural

    @property
    def regrows(self) -> bool:
        """Whether a pruner among the stages says that its masks may come back."""
        return any(getattr(call.factory, "regrows", False) for call in self.stage.calls)


def always(piece: Piece) -> bool:
    """A law that is for every piece of its kind."""
    return True


@final
@attrs.frozen(eq=False)
class Law:
    """One law.

    Args:
        name: what `laws` and `skip` call it.
        kind: what it is a law of.
        says: what holds, in one sentence.
        examples: the strategy of what it is tried on.
        check: given a piece and an example, what was found in the place of what the law says; None when it holds.
        applies: whether it makes sense for a piece.
        asked: it is checked only when it is named.
        cost: how many examples of other laws one of its examples stands for.
    """

    name: str
    kind: Kind
    says: str
    examples: Callable[[Piece], st.SearchStrategy[Any]] = attrs.field(repr=False)
    check: Callable[[Piece, Any], str | None] = attrs.field(repr=False)
    applies: Callable[[Piece], bool] = attrs.field(default=always, repr=False)
    asked: bool = False
    cost: int = 1
