"""An explanation shows rounds, layers and stages, and runs nothing."""

import pytest
import torch

from fprune.compose import Explanation
from fprune.errors import CompositionError
from fprune.records import Goal
from fprune.schedules import agp, one_shot
from fprune.stages import evaluate, finetune, tap
from tests.unit import toys
from tests.unit.toys import rows, score, smallest


def test_explanation_shows_rounds_layers_and_stages() -> None:
    explanation = (agp(4) | smallest() | finetune(toys.train)).explain(toys.net(), 0.8)
    text = str(explanation)
    for line in ("agp(4) | smallest() | finetune(train)", "0.4625", "0.7875", "3      Linear       4x8    0     0.8"):
        assert line in text
    assert "The smallest elements of each layer." in text
    assert "Train a private copy" in text
    assert [row[1] for row in explanation.rounds] == ["0", "0.4625", "0.7", "0.7875", "0.8"]
    assert [row[3] for row in explanation.rounds] == ["", "", "", "", "yes"]


def test_each_rule_has_its_number() -> None:
    config = [{"sparsity": 0.4}, {"op_names": ["3"], "exclude": True}]
    assert [row[1] for row in (agp(1) | smallest()).explain(toys.net(), config).rounds] == [
        "0, excluded",
        "0.4, excluded",
    ]


def test_rounds_that_depend_on_results_are_not_guessed() -> None:
    explanation = (toys.until_bad(0.5) | smallest() | evaluate(score)).explain(toys.net(), 0.5)
    assert explanation.goals == (Goal(0.05),)
    assert not explanation.complete
    assert explanation.rounds[-1][1] == "depends on results"
    assert "1 or more rounds" in repr(explanation)


def test_nothing_runs() -> None:
    def never(*_: object) -> None:
        raise AssertionError("it ran")

    net = toys.net()
    net.register_forward_hook(never)
    (one_shot() | smallest() | finetune(never) | evaluate(never) | tap(never)).explain(net, 0.5)


def test_what_lives_and_dies_together_is_shown_when_a_stage_needs_it() -> None:
    from fprune.stages import speed_up

    explanation = (one_shot() | rows() | speed_up()).explain(toys.net(), 0.5, example_inputs=torch.zeros(2, 6))
    assert explanation.structure is not None
    assert str(explanation.structure) in str(explanation)
    assert explanation._repr_html_().count("<table") >= 4


def test_explanations_compare_and_print() -> None:
    pipeline = one_shot() | smallest()
    one, other = pipeline.explain(toys.net(), 0.5), pipeline.explain(toys.net(1), 0.5)
    assert one == other
    assert isinstance(one, Explanation)
    assert one._repr_html_().count("<table") == 3
    assert "\n" not in repr(one)


def test_illegal_pipelines_are_not_explained() -> None:
    with pytest.raises(CompositionError, match="prunes nothing"):
        (one_shot() | finetune(toys.train)).explain(toys.net(), 0.5)
