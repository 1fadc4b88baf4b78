"""How torch lays out the tensors of recurrent layers."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

T = TypeVar("T")

GATES: Mapping[str, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""How many blocks of rows, one row a hidden unit, the weights of a layer have."""
CANDIDATE: Mapping[str, int] = {"lstm": 2, "gru": 2, "rnn_tanh": 0, "rnn_relu": 0}
"""The block that makes the new content of a hidden unit; the others only gate it."""


@attrs.frozen
class Cell(Generic[T]):
    """The tensors of one layer in one direction: references in a program, or what is known of them.

    Args:
        w_ih: weight of the input, `(gates * hidden, features)`.
        w_hh: weight of the state, `(gates * hidden, state)`.
        b_ih: bias that is added to the first, or None.
        b_hh: bias that is added to the second, or None.
        w_hr: weight that makes the state from the hidden units, `(state, hidden)`, or None if they are the state.
    """

    w_ih: T
    w_hh: T
    b_ih: T | None = None
    b_hh: T | None = None
    w_hr: T | None = None

    @property
    def biases(self) -> list[T]:
        """The biases it has."""
        return [b for b in (self.b_ih, self.b_hh) if b is not None]


def cells(bound: Mapping[str, Any]) -> list[list[Cell[Any]]]:
    """The cells of a call, `cells[layer][direction]`, from its arguments by name."""
    params, directions = bound["params"], 2 if bound["bidirectional"] else 1
    count = bound["num_layers"] * directions
    width = len(params) // count
    biased = 2 if bound["has_biases"] else 0
    found: list[Cell[Any]] = []
    for start in range(0, count * width, width):
        w_ih, w_hh, *rest = params[start : start + width]
        biases: Sequence[Any] = rest[:biased] if biased else (None, None)
        found.append(Cell(w_ih, w_hh, *biases, *rest[biased:]))
    return [found[i : i + directions] for i in range(0, count, directions)]


def sequence(bound: Mapping[str, Any]) -> Any:
    """The input of a call: padded, or packed."""
    return bound["input"] if "input" in bound else bound["data"]
