"""The errors fprune raises, and its warnings: what was found, where, what was expected, and a hint.

Every error has a built-in exception as second base, so code that does not know fprune can still catch the usual kind.

Examples:
    >>> raise ConfigError("rule 2: no layer 'layer99'", hint="Did you mean 'layer9'?")
    Traceback (most recent call last):
    ...
    fprune.errors.ConfigError: rule 2: no layer 'layer99'
    hint: Did you mean 'layer9'?
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

_CUTOFF = 0.6


class _Told(Exception):
    """What errors and warnings share: a message, a hint on a line of its own, and that they pickle."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\nhint: {hint}" if hint else message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ would call the class with the joined text and lose the keyword. The state carries
        # message, hint and the notes that a run adds.
        return _restored, (type(self), self.message, self.hint), self.__dict__


def _restored(cls: type[_Told], message: str, hint: str) -> _Told:
    return cls(message, hint=hint)


class FpruneError(_Told):
    """The root of every error that fprune raises on purpose.

    Examples:
        >>> error = FpruneError("nothing to do", hint="give at least one rule")
        >>> error.message, error.hint
        ('nothing to do', 'give at least one rule')

    Args:
        message: What was found, where, and what was expected.
        hint: What to do about it; printed on a line of its own.
    """


class CompositionError(FpruneError, TypeError):
    """Two things that cannot be joined by `|`, or a pipeline whose stages do not fit together."""


class ConfigError(FpruneError, ValueError):
    """A rule that is malformed, selects nothing, or asks for what the model cannot give."""


class ConfigTypeError(ConfigError, TypeError):
    """A value of the wrong type in a rule or an option, such as the text '0.5' for a sparsity."""


class ModelError(FpruneError, ValueError):
    """A model, a parameter or a mask that fprune cannot work with."""


class ScoreError(FpruneError, ArithmeticError):
    """A criterion that produced a score which is not a number, or could not be computed."""


class StructureError(FpruneError, RuntimeError):
    """A model whose structure could not be traced, or a compaction that could not be carried out."""


class ScheduleError(FpruneError, RuntimeError):
    """A schedule that yields something other than goals, or goals that cannot be reached."""


class StageError(FpruneError, RuntimeError):
    """A stage, or the user's function inside it, that failed or returned the wrong thing."""


class DivergenceError(StageError):
    """A stage that left NaN or infinity in a tensor that was finite; nothing of it is kept."""


class CheckpointError(FpruneError, OSError):
    """A stored run that is damaged, incomplete, or belongs to something else."""


class LawViolation(FpruneError, AssertionError):
    """A pruner, schedule, stage or pipeline that breaks a law which `fprune.testing` checks.

    Examples:
        >>> violation = LawViolation("mine() breaks the law 'exact count'", law="exact count", example="seed = 0")
        >>> violation.law, violation.example
        ('exact count', 'seed = 0')

    Args:
        message: The law, and what was found in the place of what was expected.
        hint: What the law says.
        law: Its name.
        example: The smallest example found, as code.
    """

    def __init__(self, message: str, *, hint: str = "", law: str = "", example: str = "") -> None:
        super().__init__(message, hint=hint)
        self.law = law
        self.example = example


class FpruneWarning(_Told, UserWarning):
    """The root of every warning: the run goes on, and its result may not be what was meant.

    Each kind is a class, so that one can be silenced or made an error by itself.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", FpruneWarning)
        ...     warnings.warn(TiedScores("FP031 'fc.weight': all scores are equal"))
        Traceback (most recent call last):
        ...
        fprune.errors.TiedScores: FP031 'fc.weight': all scores are equal

    Args:
        message: What was found, and where.
        hint: What to do about it; printed on a line of its own.
    """


class EnvironmentChanged(FpruneWarning):
    """A stored run goes on with another torch, device or number of threads, so its last bits may differ.

    Examples:
        >>> print(EnvironmentChanged("runs/a: threads were 2 and are 1", hint="torch.set_num_threads(2)"))
        runs/a: threads were 2 and are 1
        hint: torch.set_num_threads(2)
    """


class RoundDamaged(FpruneWarning):
    """A stored round cannot be read, and the run goes on from the one before it.

    Examples:
        >>> print(RoundDamaged("it-000003/state.safetensors: its digest differs; going on from it-000002"))
        it-000003/state.safetensors: its digest differs; going on from it-000002
    """


class NotKept(FpruneWarning):
    """What a stage made could not be put into a cache, so that it will be made again.

    Examples:
        >>> print(NotKept("runs/cache: what finetune(train) made is not kept: No space left on device"))
        runs/cache: what finetune(train) made is not kept: No space left on device
    """


class TiedScores(FpruneWarning):
    """All scores that compete are equal, so which units go is decided by name and index alone.

    Examples:
        >>> print(TiedScores("FP031 'fc.weight': all 8 scores are 0", hint="train before pruning"))
        FP031 'fc.weight': all 8 scores are 0
        hint: train before pruning
    """


def close_matches(name: str, known: Iterable[str]) -> str:
    """Say which known names resemble a misspelt one.

    Examples:
        >>> close_matches("Conv2D", ["Conv2d", "Linear"])
        "Did you mean 'Conv2d'?"
        >>> close_matches("conv1", ["layer1.0.conv1", "layer1.0.conv2"])
        "Did you mean 'layer1.0.conv1'?"
        >>> close_matches("zzz", ["Conv2d", "Linear"])
        ''

    Args:
        name: What was written.
        known: What exists.

    Returns:
        A question with up to three names, nearest first, or the empty string.
    """
    likeness = SequenceMatcher(b=name.lower())
    ranked: list[tuple[float, str]] = []
    for candidate in dict.fromkeys(known):
        likeness.set_seq1(candidate.lower())
        if candidate.endswith(f".{name}") or likeness.quick_ratio() >= _CUTOFF <= likeness.ratio():
            ranked.append((-likeness.ratio(), candidate))
    found = [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])[:3]]
    return f"Did you mean {', '.join(map(repr, found))}?" if found else ""
