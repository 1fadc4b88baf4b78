import copy
import pickle
import warnings

import pytest

from fprune import errors
from fprune.errors import ConfigTypeError, FpruneError, FpruneWarning, StageError, close_matches

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FpruneError | FpruneWarning)
]


def test_message_and_hint_are_separate_and_printed_together():
    error = FpruneError("found this", hint="do that")
    assert (error.message, error.hint) == ("found this", "do that")
    assert str(error) == "found this\nhint: do that"
    assert str(FpruneError("found this")) == "found this"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_class_pickles_and_copies_with_hint_and_notes(kind, again):
    error = kind("found this", hint="do that")
    error.add_note("round 3, finetune(train)")
    back = again(error)
    assert type(back) is kind
    assert (back.message, back.hint, str(back)) == (error.message, error.hint, str(error))
    assert back.__notes__ == ["round 3, finetune(train)"]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.CompositionError, TypeError),
        (errors.ConfigError, ValueError),
        (errors.ConfigTypeError, TypeError),
        (errors.ConfigTypeError, errors.ConfigError),
        (errors.ModelError, ValueError),
        (errors.ScoreError, ArithmeticError),
        (errors.StructureError, RuntimeError),
        (errors.ScheduleError, RuntimeError),
        (errors.StageError, RuntimeError),
        (errors.DivergenceError, errors.StageError),
        (errors.CheckpointError, OSError),
    ],
)
def test_every_class_is_also_the_builtin_kind(kind, builtin):
    assert issubclass(kind, builtin)


def test_every_warning_can_be_told_apart_and_is_no_error():
    kinds = [kind for kind in KINDS if issubclass(kind, Warning)]
    assert {kind.__name__ for kind in kinds} == {
        "FpruneWarning",
        "EnvironmentChanged",
        "RoundDamaged",
        "NotKept",
        "TiedScores",
    }
    for kind in kinds:
        assert issubclass(kind, UserWarning)
        assert not issubclass(kind, FpruneError)
        with pytest.warns(FpruneWarning, match="found this\nhint: do that") as caught:
            warnings.warn(kind("found this", hint="do that"), stacklevel=1)
        assert [type(one.message) for one in caught] == [kind]


def test_an_os_error_keeps_its_message():
    # OSError has a __new__ and a __str__ of its own, which could swallow the text
    error = errors.CheckpointError("it-000003 is damaged", hint="go back")
    assert str(error) == "it-000003 is damaged\nhint: go back"


def test_errors_chain_and_can_be_caught_as_the_root():
    def fail():
        try:
            raise KeyError("x")
        except KeyError as error:
            raise StageError("round 1") from error

    with pytest.raises(FpruneError) as caught:
        fail()
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="got 'half'"):
        raise ConfigTypeError("got 'half'")


def test_close_matches():
    assert close_matches("layer1.conv", ["layer1.conv1", "layer1.conv2", "head"]).startswith(
        "Did you mean 'layer1.conv1'"
    )
    assert close_matches("layer1.conv", [f"layer1.conv{i}" for i in range(9)]).count("'") == 6
    assert close_matches("conv2D", ["Conv2d"]) == "Did you mean 'Conv2d'?"
    assert close_matches("anything", []) == ""
