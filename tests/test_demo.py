"""The main job end to end, on fewer rounds and epochs than `python -m fprune demo` takes."""

import pytest

from fprune import __main__ as command
from fprune import demo


@pytest.fixture(scope="module")
def outcome() -> demo.Outcome:
    return demo.run(seed=0, rounds=2, sparsity=0.5, epochs=4)


def test_the_compact_network_computes_what_the_pruned_one_does(outcome: demo.Outcome) -> None:
    assert outcome.difference < 1e-12
    assert outcome.compact.accuracy == pytest.approx(outcome.pruned.accuracy, abs=0.005)


def test_every_convolution_loses_exactly_what_was_asked(outcome: demo.Outcome) -> None:
    channels = outcome.result.report.channels
    assert len(channels) == 6
    assert all(2 * realised.removed == realised.total for realised in channels.values()), channels


def test_the_compact_network_is_smaller(outcome: demo.Outcome) -> None:
    dense, pruned, compact = outcome.dense, outcome.pruned, outcome.compact
    assert pruned.parameters == dense.parameters
    assert pruned.zeros > 0.7 * dense.parameters
    assert compact.parameters < 0.3 * dense.parameters
    assert compact.flops < 0.3 * dense.flops


def test_the_score_is_the_accuracy_of_the_module(outcome: demo.Outcome) -> None:
    assert outcome.result.score == pytest.approx(demo.accuracy(outcome.result.module()), abs=0.005)
    assert outcome.pruned.accuracy > 0.8, "far from chance after four epochs"


def test_the_table_names_the_three_networks(outcome: demo.Outcome) -> None:
    table = outcome.table()
    assert [word for word in ("dense", "pruned", "compact") if word in table] == ["dense", "pruned", "compact"]
    assert f"{outcome.compact.parameters:,}" in table


def test_the_command_prints_the_pipeline_and_the_table(
    outcome: demo.Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_: outcome)
    command.main(["demo", "--rounds", "2", "--sparsity", "0.5"])
    printed = capsys.readouterr().out
    assert "agp(2) | l1(dependency_aware) | finetune(train) | evaluate(accuracy) | speed_up()" in printed
    assert outcome.table() in printed
    assert "asked for 50.0%" in printed


@pytest.mark.parametrize("arguments", [["demo", "--rounds", "x"], ["nothing"], []])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "usage: python -m fprune" in capsys.readouterr().err
