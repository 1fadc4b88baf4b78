"""How much the score falls when one layer is pruned, for every layer and ratio."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import attrs
from torch import nn

from fprune.compose import Stage
from fprune.config import Config, ConfigLike
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, close_matches
from fprune.model import Model
from fprune.progress import progress
from fprune.pruners import l1
from fprune.rule import Rule
from fprune.schedules.scan import RATIOS, scan
from fprune.show import blank
from fprune.stages import evaluate
from fprune.tables import html_table, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Point", "Sensitivity", "sensitivity"]


@final
@attrs.frozen
class Point:
    """The score with one layer pruned.

    Examples:
        >>> point = Point(Config({"op_names": ["conv1"], "sparsity": 0.5}), 0.75, 0.25)
        >>> point.layer, point.ratio, point.score, point.drop
        ('conv1', 0.5, 0.75, 0.25)

    Args:
        config: what was pruned: one layer, or the layers that lose their channels together.
        score: the evaluator's number.
        drop: by how much it is below that of the unpruned model; negative when the score rose.
    """

    config: Config
    score: float
    drop: float

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer, or the layers that go together."""
        return tuple(rule.op_names[0] for rule in self.config.rules if not rule.exclude)

    @property
    def layer(self) -> str:
        """The layers in one text, joined by ` + `."""
        return " + ".join(self.layers)

    @property
    def ratio(self) -> float:
        """The fraction that was removed, in (0, 1)."""
        return max(rule.sparsity or 0.0 for rule in self.config.rules)


@final
@attrs.frozen(repr=False)
class Sensitivity:
    """A score for every layer and ratio; what `sensitivity` finds.

    Examples:
        >>> def point(name, ratio, score):
        ...     return Point(Config({"op_names": [name], "sparsity": ratio}), score, 1.0 - score)
        >>> found = Sensitivity(1.0, [point("a", 0.25, 1.0), point("a", 0.5, 0.75), point("b", 0.5, 0.5)])
        >>> found
        Sensitivity(2 layers, 3 points, score 1)
        >>> print(found)
        Sensitivity(2 layers, 3 points, score 1)
        drop of  0.25  0.5
        -------  ----  ----
        a        0     0.25
        b              0.5
        >>> found.config(max_drop=0.3)
        Config([Rule(op_names=('a',), sparsity=0.5)])

    Args:
        score: the score of the unpruned model.
        rows: one for each layer and ratio, layer by layer.
    """

    score: float
    rows: tuple[Point, ...] = attrs.field(converter=tuple)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, or those that go together in one text, in the order of the model."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratios that were tried, growing."""
        return tuple(sorted({row.ratio for row in self.rows}))

    def of(self, layer: str) -> tuple[Point, ...]:
        """Return the points of a layer, the smallest ratio first.

        Raises:
            ConfigError: there is no such layer.
        """
        found = tuple(row for row in self.rows if layer == row.layer or layer in row.layers)
        if not found:
            raise ConfigError(f"no layer {layer!r} was scanned", hint=close_matches(layer, self.layers))
        return found

    def config(self, max_drop: float) -> Config:
        """Return what can be pruned of every layer by itself: the largest ratio whose drop is at most `max_drop`.

        Args:
            max_drop: in units of the score, at least 0.

        Returns:
            A rule for each layer that has such a ratio; all at once they will cost more than each alone.

        Raises:
            ConfigError: no layer has one, or `max_drop` is negative.
        """
        given: object = max_drop
        if isinstance(given, bool) or not isinstance(given, Real):
            raise ConfigTypeError(f"max_drop: expected a number, got {given!r}", hint="in units of the score")
        if not given >= 0:
            raise ConfigError(f"max_drop: expected at least 0, got {given}", hint="in units of the score")
        best = {row.layer: row for row in sorted(self.rows, key=lambda row: row.ratio) if row.drop <= max_drop}
        if not best:
            least = min((row.drop for row in self.rows), default=math.inf)
            raise ConfigError(f"every ratio of every layer costs more than {max_drop}", hint=f"the least is {least:g}")
        rules: list[Rule] = [rule for layer in self.layers if layer in best for rule in best[layer].config.rules]
        return Config(tuple(dict.fromkeys(rules)))  # what is excluded is so in the config of every layer

    def to_csv(self, path: str | Path) -> None:
        """Write a table with the columns `layer`, `ratio`, `score` and `drop`; the first row is the unpruned model.

        Args:
            path: the file; it is overwritten.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("layer", "ratio", "score", "drop"))
            writer.writerow(("", 0.0, self.score, 0.0))
            writer.writerows((row.layer, row.ratio, row.score, row.drop) for row in self.rows)

    def plot(self, *, axes: "Axes | None" = None) -> "Axes":
        """Draw the score over the ratio, a line for each layer, and the score of the unpruned model. Needs matplotlib.

        Args:
            axes: where to draw; a new figure if there is none.

        Returns:
            The axes, to be labelled, saved or drawn on.
        """
        axes = blank(4.0) if axes is None else axes
        axes.axhline(self.score, color="black", linewidth=1, linestyle="--", label="unpruned")
        for layer in self.layers:
            points = self.of(layer)
            axes.plot([p.ratio for p in points], [p.score for p in points], "o-", markersize=3, label=layer)
        axes.set_xlabel("fraction removed of one layer")
        axes.set_ylabel("score")
        axes.set_xlim(0, 1)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")
        return axes

    def __iter__(self) -> Iterator[Point]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        drops = {(row.layer, row.ratio): f"{row.drop:.4g}" for row in self.rows}
        rows = [[layer, *(drops.get((layer, ratio), "") for ratio in self.ratios)] for layer in self.layers]
        return ["drop of", *(f"{ratio:g}" for ratio in self.ratios)], rows

    def __repr__(self) -> str:
        return f"Sensitivity({len(self.layers)} layers, {len(self)} points, score {self.score:g})"

    def __str__(self) -> str:
        return text_table(*self._cells(), title=repr(self))

    def _repr_html_(self) -> str:
        return html_table(*self._cells(), title=repr(self))


def sensitivity(
    model: nn.Module | Model,
    evaluator: Callable[[nn.Module], Any],
    config: ConfigLike = 0.5,
    *,
    pruner: Stage | None = None,
    ratios: Sequence[float] = RATIOS,
    example_inputs: object = None,
    seed: int = 0,
    executor: Executor | None = None,
) -> Sensitivity:
    """Prune one layer at a time, at every ratio, and see what it does to the score.

    drop(layer, ratio) = score of the model - score with `ratio` of that layer removed and everything else as it was.

    It is the pipeline `scan(ratios) | pruner | evaluate(evaluator)`, run from the origin each time. With a pruner that
    is `dependency_aware`, layers that lose their channels together are scanned together.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]])), net[1].weight.fill_(1.0)
        >>> def largest(module):
        ...     return module(torch.ones(1, 2)).item()
        >>> found = sensitivity(net, largest, {"op_names": ["0"], "sparsity": 0.5}, ratios=(0.25, 0.5, 0.75))
        >>> print(found)
        Sensitivity(1 layers, 3 points, score 20)
        drop of  0.25  0.5  0.75
        -------  ----  ---  ----
        0        2     6    12
        >>> found.config(max_drop=6)
        Config([Rule(op_names=('0',), sparsity=0.5)])

    Args:
        model: the network, never changed.
        evaluator: module -> finite number, higher is better; it gets a private copy in evaluation mode.
        config: which layers; its amounts do not matter, its bounds, granularities and exclusions do.
        pruner: a stage that prunes, such as `level()` or `l1(dependency_aware)`; `l1()` by default.
        ratios: the fractions to try, growing, each in (0, 1).
        example_inputs: what the model's forward takes, for pruners that need its structure.
        seed: where all randomness of the run comes from.
        executor: where evaluations run, at the same time; the result is the same with any and with none.

    Returns:
        A record with a row for each layer and ratio, `.to_csv(path)`, `.plot()` and `.config(max_drop=...)`.

    Raises:
        CompositionError: `pruner` is no stage, or lacks what it needs.
        ConfigError: the config does not fit the model, or the ratios make no sense.
        StageError: the evaluator failed.

    References:
        Li et al, `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2016
    """
    stage = l1() if pruner is None else pruner
    if not isinstance(stage, Stage):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CompositionError(f"pruner: expected a stage, got {stage!r}", hint="call it: pruner=l1()")
    pipeline = scan(ratios) | stage | evaluate(evaluator)
    target = Config.of(config).map(lambda _: 0.0)  # no amount that a bound could contradict
    stream = pipeline.stream(model, target, example_inputs=example_inputs, seed=seed, executor=executor)
    first, *others = [(r.goal.config, r.score or 0.0) for r in progress(stream, "sensitivity", "evaluation")]
    return Sensitivity(first[1], [Point(config, score, first[1] - score) for config, score in others])
