"""Plots of a run: what each layer was asked and gave, and how the rounds went. Needs matplotlib."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from fprune.records import Report, TaskResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _axes(height: float) -> "Axes":
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7, height), layout="constrained")[1]


def _requested(result: TaskResult) -> dict[str, float]:
    """Weight name -> the sparsity its rule asks for; layers that share a budget share the rule's figure."""
    rows = result.goal.config.resolve(result.origin).selected
    return {row.layer.weight: cast(float, row.total if row.sparsity is None else row.sparsity) for row in rows}


def layers(result: TaskResult, *, axes: "Axes | None" = None) -> "Axes":
    """Draw, for each pruned layer, the sparsity that was asked for and the one that came out.

    A layer's bar is the fraction of its output channels removed, or of its weights where no whole channel was
    asked for; both count against the original network.

    Args:
        result: any result of a run; its last one tells about the whole run.
        axes: where to draw; a new figure if there is none.

    Returns:
        The axes, to be labelled, saved or drawn on.
    """
    report, asked = result.report, _requested(result)
    axes = _axes(0.8 + 0.32 * len(asked)) if axes is None else axes
    by_channel = any(realised.removed for realised in report.channels.values())
    realised = report.channels if by_channel else report.elements
    places = range(len(asked))
    axes.barh(places, [realised[name].fraction for name in asked], color="tab:blue", height=0.6, label="realised")
    axes.plot([asked[name] for name in asked], places, "|", color="black", markersize=14, label="requested")
    axes.set_yticks(places, [name.removesuffix(".weight") for name in asked])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("fraction of channels removed" if by_channel else "fraction of weights removed")
    axes.legend(loc="lower right", frameon=False)
    return axes


def rounds(result: TaskResult, *, axes: "Axes | None" = None) -> "Axes":
    """Draw the schedule: the sparsity of every round up to this result, and the score where there is one.

    Args:
        result: the last result of a run; the earlier rounds are in its history.
        axes: where to draw; a new figure if there is none.

    Returns:
        The axes, to be labelled, saved or drawn on.
    """
    axes = _axes(3.0) if axes is None else axes
    reports: Sequence[Report] = (*result.history, result.report)
    index = [report.index for report in reports]
    by_channel = any(realised.removed for report in reports for realised in report.channels.values())
    axes.plot(
        index,
        [report.channel_sparsity if by_channel else report.sparsity for report in reports],
        "o-",
        color="tab:blue",
        label="channels removed" if by_channel else "weights removed",
    )
    scored = [(report.index, report.score) for report in reports if report.score is not None]
    if scored:
        axes.plot(*cast(Any, zip(*scored, strict=True)), "s--", color="tab:orange", label="score")
    axes.set_xlabel("round")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", frameon=False)
    return axes
