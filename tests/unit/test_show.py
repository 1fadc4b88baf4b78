"""Plots show what the reports say."""

from collections.abc import Iterator

import matplotlib
import pytest
import torch
from torch import nn

from fprune import TaskResult, agp, dependency_aware, evaluate, l1, level, show

CONFIG = [{"op_names": ["0"], "sparsity": 0.5}]


@pytest.fixture(autouse=True)
def _without_a_screen() -> Iterator[None]:
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def run(pruner: object, *others: object) -> TaskResult:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))
    pipeline = agp(2) | pruner
    for other in others:
        pipeline = pipeline | other
    return pipeline.run(net, CONFIG, example_inputs=torch.ones(1, 4))


def test_layers_shows_channels_asked_and_gone() -> None:
    axes = show.layers(run(l1(dependency_aware)))
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(4 / 9)]
    assert list(axes.lines[0].get_xdata()) == [0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0"]
    assert "channels" in axes.get_xlabel()


def test_layers_shows_weights_where_no_channel_went() -> None:
    axes = show.layers(run(level()))
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(0.5)]
    assert "weights" in axes.get_xlabel()


def test_rounds_shows_every_round_and_the_score() -> None:
    axes = show.rounds(run(l1(dependency_aware), evaluate(lambda module: 0.25)))
    realised, requested, score = axes.lines
    assert list(realised.get_xdata()) == [0, 1, 2]
    assert list(realised.get_ydata()) == [0, pytest.approx(3 / 9), pytest.approx(4 / 9)]
    assert list(requested.get_ydata()) == [0, pytest.approx(0.4375), 0.5]
    assert list(score.get_ydata()) == [0.25] * 3


def test_rounds_without_a_score() -> None:
    assert len(show.rounds(run(level())).lines) == 2


def test_plots_draw_on_given_axes() -> None:
    import matplotlib.pyplot as plt

    _, (one, other) = plt.subplots(1, 2)
    result = run(level())
    assert show.layers(result, axes=one) is one
    assert show.rounds(result, axes=other) is other
