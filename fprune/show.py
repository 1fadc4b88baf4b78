"""Plots of a run: what each layer was asked and gave, and how the rounds went. Needs matplotlib."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fprune.config import Config
from fprune.counting import Realised
from fprune.model import Model
from fprune.records import Report, TaskResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["blank", "layers", "rounds"]


def layers(result: TaskResult, *, axes: "Axes | None" = None) -> "Axes":
    """Draw, for each pruned layer, the sparsity that was asked for and the one that came out.

    A layer's bar is the fraction of its output channels that are gone, or of its weights when the run pruned single
    weights; both count against the original network.

    Args:
        result: any result of a run; the last one tells about the whole run.
        axes: where to draw; a new figure if there is none.

    Returns:
        The axes, to be labelled, saved or drawn on.
    """
    by_channel = _by_channel(result)
    realised, asked = _realised(result.report, by_channel), _asked(result.goal.config, result.origin)
    axes = blank(0.9 + 0.3 * len(asked)) if axes is None else axes
    places = range(len(asked))
    axes.barh(places, [realised[name].fraction for name in asked], color="tab:blue", height=0.6, label="realised")
    axes.plot(list(asked.values()), places, "|", color="black", markersize=14, label="requested")
    axes.set_yticks(places, [name.removesuffix(".weight") for name in asked])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(_label(by_channel))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return axes


def rounds(result: TaskResult, *, axes: "Axes | None" = None) -> "Axes":
    """Draw the schedule: the sparsity of every round up to this result, and the score where there is one.

    Args:
        result: the last result of a run; the earlier rounds are in its history.
        axes: where to draw; a new figure if there is none.

    Returns:
        The axes, to be labelled, saved or drawn on.
    """
    axes = blank(3.0) if axes is None else axes
    reports = (*result.history, result.report)
    index, by_channel = [report.index for report in reports], _by_channel(result)
    came = [report.channel_sparsity if by_channel else report.sparsity for report in reports]
    axes.plot(index, came, "o-", color="tab:blue", label="realised")
    asked = [_total(report, _asked(report.goal.config, result.origin), by_channel) for report in reports]
    axes.plot(index, asked, "_", color="black", markersize=14, label="requested")
    scored = [report for report in reports if report.score is not None]
    if scored:
        values = [0.0 if report.score is None else report.score for report in scored]
        axes.plot([report.index for report in scored], values, "s--", color="tab:orange", label="score")
    axes.set_xlabel("round")
    axes.set_ylabel(_label(by_channel))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return axes


def blank(height: float) -> "Axes":
    """Return the axes of a new figure, seven inches wide."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7, height), layout="constrained")[1]


def _label(by_channel: bool) -> str:
    return "fraction of channels removed" if by_channel else "fraction of weights removed"


def _by_channel(result: TaskResult) -> bool:
    """Whether the run counted channels: what came out is nearer to what was asked in channels than in weights."""
    report, asked = result.report, _asked(result.goal.config, result.origin)
    channels = abs(report.channel_sparsity - _total(report, asked, by_channel=True))
    return not channels > abs(report.sparsity - _total(report, asked, by_channel=False))  # NaN under a budget


def _realised(report: Report, by_channel: bool) -> Mapping[str, Realised]:
    return report.channels if by_channel else report.elements


def _asked(config: Config, origin: Model) -> dict[str, float]:
    """Weight name -> the sparsity its rule asks for; layers that share a total have the total, NaN under a budget."""
    found: dict[str, float] = {}
    for row in config.resolve(origin).selected:
        shared = math.nan if row.total is None else row.total
        found[row.layer.weight] = shared if row.sparsity is None else row.sparsity
    return found


def _total(report: Report, asked: Mapping[str, float], by_channel: bool) -> float:
    """The sparsity asked of all layers together."""
    sizes = {name: realised.total for name, realised in _realised(report, by_channel).items()}
    return sum(sizes.get(name, 0) * part for name, part in asked.items()) / max(1, sum(sizes.values()))
