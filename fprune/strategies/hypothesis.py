"""Hypothesis, with a sentence for those who do not have it."""

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "fprune.strategies and fprune.testing need hypothesis, which is not installed\n"
        'hint: pip install "fprune[testing]"'
    ) from error

__all__ = ["st"]
