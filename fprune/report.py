"""What a round is to reach, and what it reached, without tensors: all that a schedule may see."""

from collections.abc import Iterable, Mapping
from typing import Literal, final

import attrs

from fprune.config import Config
from fprune.counting import Realised
from fprune.errors import ConfigTypeError
from fprune.tables import html_table
from fprune.tree import Flat, same

__all__ = ["Goal", "Report"]


def _start(value: Literal["previous", "origin"]) -> Literal["previous", "origin"]:
    if value not in ("previous", "origin"):
        raise ConfigTypeError(f"start: expected 'previous' or 'origin', got {value!r}", hint="start='previous'")
    return value


@final
@attrs.frozen(repr=False)
class Goal:
    """What a schedule asks of one round.

    Examples:
        >>> Goal(Config(0.8).scaled(0.5))
        Goal(Config(0.4))
        >>> Goal(Config(0.8), final=True)
        Goal(Config(0.8), final=True)

    Args:
        config: what to have removed by the end of the round, measured on the original model.
        start: the state to begin with, that of the previous round or the original model.
        final: whether reaching this goal meets the caller's target.
    """

    config: Config = attrs.field(converter=Config.of)
    start: Literal["previous", "origin"] = attrs.field(default="previous", kw_only=True, converter=_start)
    final: bool = attrs.field(default=False, kw_only=True)

    def __repr__(self) -> str:
        start = "" if self.start == "previous" else f", start={self.start!r}"
        return f"Goal({self.config!r}{start}{', final=True' if self.final else ''})"

    def _repr_html_(self) -> str:
        return html_table(("goal", "start", "final"), [(repr(self.config), self.start, str(self.final))])


def as_flat(value: Mapping[str, float]) -> Flat[float]:
    """Take any mapping of metrics."""
    return Flat(value)


def each_once(notes: Iterable[str]) -> tuple[str, ...]:
    """Take remarks, without those that were made before."""
    return tuple(dict.fromkeys(notes))


@final
@attrs.frozen(eq=False, repr=False)
class Report:
    """A round's result without tensors: all that a schedule may see.

    Examples:
        >>> gone = Flat({"conv1.weight": Realised(1, 4)})
        >>> report = Report(0, Goal(0.25), 0.9, channels=gone, elements=gone)
        >>> report
        Report(round 0, sparsity 0.25, channels 0.25, score 0.9)
        >>> report.sparsity
        0.25

    Args:
        index: number of the round, from 0.
        goal: what the round was to reach.
        score: the evaluator's number, higher is better; `None` when the pipeline has no evaluator.
        metrics: other numbers that stages reported.
        channels: output units that are gone entirely, by weight name, in the original model's coordinates.
        elements: weights that are gone, by weight name, in the original model's coordinates.
        notes: what the reader should know, such as a layer that keeps its last channel.
    """

    index: int
    goal: Goal
    score: float | None = None
    metrics: Flat[float] = attrs.field(factory=Flat[float], converter=as_flat)
    channels: Flat[Realised] = attrs.field(factory=Flat[Realised])
    elements: Flat[Realised] = attrs.field(factory=Flat[Realised])
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of the selected layers' weights that are gone, in `[0, 1]`."""
        return _fraction(self.elements)

    @property
    def channel_sparsity(self) -> float:
        """Fraction of the selected layers' output units that are gone entirely, in `[0, 1]`."""
        return _fraction(self.channels)

    def metrics_dict(self) -> dict[str, float]:
        """Return one flat dict of numbers for a logger; `/` separates groups.

        Examples:
            >>> Report(2, Goal(0.5), 0.9, Flat({"loss": 0.1})).metrics_dict()
            {'round': 2.0, 'score': 0.9, 'sparsity/elements': 0.0, 'sparsity/channels': 0.0, 'metrics/loss': 0.1}

        Returns:
            Round, score, realised sparsity in total and by layer, and the stages' metrics.
        """
        return {
            "round": float(self.index),
            **({} if self.score is None else {"score": self.score}),
            "sparsity/elements": self.sparsity,
            "sparsity/channels": self.channel_sparsity,
            **{f"metrics/{name}": value for name, value in self.metrics.items()},
            **{f"channels/{name}": value.fraction for name, value in self.channels.items()},
            **{f"elements/{name}": value.fraction for name, value in self.elements.items()},
        }

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Report) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # a Flat has no hash

    def __repr__(self) -> str:
        return f"Report({self._summary()})"

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{self.channels[name].removed}/{self.channels[name].total}", f"{gone.removed}/{gone.total}")
            for name, gone in self.elements.items()
        ]
        headers = ("weight", "channels removed", "elements removed")
        return html_table(headers, [*rows, *((note, "", "") for note in self.notes)], title=self._summary())

    def _summary(self) -> str:
        score = "" if self.score is None else f", score {self.score:g}"
        where = "start" if self.index < 0 else f"round {self.index}"
        return f"{where}, sparsity {self.sparsity:.4g}, channels {self.channel_sparsity:.4g}{score}"


def _fraction(parts: Mapping[str, Realised]) -> float:
    return Realised(sum(part.removed for part in parts.values()), sum(part.total for part in parts.values())).fraction
