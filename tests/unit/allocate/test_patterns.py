"""Blocks of equal size, their counts, and what does not fit them."""

import pickle

import pytest
import torch
from torch import nn

from fprune.allocate import balanced, n_m
from fprune.config import Config
from fprune.criteria import channel_norm, magnitude
from fprune.errors import ConfigError, ConfigTypeError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.scope import Scope
from fprune.tree import Flat


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("allocation", [balanced(), balanced(4), balanced((2, 2)), n_m(2, 4)])
def test_repr_is_the_expression_and_equality_is_structural(allocation) -> None:
    assert eval(repr(allocation)) == allocation
    assert pickle.loads(pickle.dumps(allocation)) == allocation
    assert len({allocation, eval(repr(allocation))}) == 1
    assert allocation != balanced(5)
    assert allocation != n_m(1, 4)


def test_rows_lose_the_same() -> None:
    masks = balanced()(magnitude(), {"w": weights(6, 5, 3, 3)}, Config(0.4))
    assert (~masks["w"]).flatten(1).sum(dim=1).tolist() == [18] * 6


def test_runs_of_a_row_lose_the_same() -> None:
    masks = balanced(5)(magnitude(), {"w": weights(6, 10)}, Config(0.4))
    assert (~masks["w"]).reshape(-1, 5).sum(dim=1).tolist() == [2] * 12


@pytest.mark.parametrize("block", [(3, 5), (2, 1), (1, 10), (6, 10), (5,)])
def test_cells_of_a_grid_lose_the_same(block: tuple[int, ...]) -> None:
    gone = ~balanced(block)(magnitude(), {"w": weights(6, 10)}, Config(0.5))["w"]
    high, wide = (1, *block)[-2:]
    for i in range(0, 6, high):
        for j in range(0, 10, wide):
            assert int(gone[i : i + high, j : j + wide].sum()) == high * wide // 2


def test_cells_span_the_last_dimensions() -> None:
    gone = ~balanced((2, 3, 3))(magnitude(), {"w": weights(4, 6, 3, 3)}, Config(0.5))["w"]
    assert gone.reshape(4, 3, 18).sum(dim=2).tolist() == [[9] * 3] * 4


def test_channels_fall_into_runs_of_units() -> None:
    params = {"w": torch.tensor([[1.0], [2.0], [9.0], [8.0]])}
    assert balanced(2)(channel_norm(), params, Config(0.5))["w"].flatten().tolist() == [False, True, True, False]
    assert balanced()(channel_norm(), params, Config(0.5))["w"].flatten().tolist() == [False, False, True, True]
    assert n_m(1, 2)(channel_norm(), params, Config(0.5))["w"].flatten().tolist() == [False, True, True, False]
    assert balanced((2,))(channel_norm(), params, Config(0.5)) == balanced(2)(channel_norm(), params, Config(0.5))


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
def test_ties_in_a_block_go_by_index() -> None:
    masks = balanced(4)(magnitude(), {"w": torch.ones(2, 8)}, Config(0.5))
    assert masks["w"].tolist() == [[False, False, True, True] * 2] * 2


def test_counts_reach_the_pattern_in_whole_steps() -> None:
    params = {"w": weights(4, 16)}
    removed = [int((~n_m(4, 8)(magnitude(), params, Config(s))["w"]).sum()) for s in (0, 0.12, 0.125, 0.3, 0.499, 0.5)]
    assert removed == [0, 0, 8, 16, 24, 32]


@pytest.mark.parametrize(("n", "m"), [(1, 3), (1, 7), (2, 3), (5, 7), (2, 4)])
def test_the_full_pattern_is_exact_in_floats(n: int, m: int) -> None:
    masks = n_m(n, m)(magnitude(), {"w": weights(3, 2 * m)}, Config(1 - n / m))
    assert masks["w"].reshape(-1, m).sum(dim=1).tolist() == [n] * 6


def test_n_m_runs_along_the_input_axis_of_convolutions() -> None:
    gone = ~n_m(2, 4)(magnitude(), {"w": weights(3, 8, 5, 5)}, Config(0.5))["w"]
    assert (gone.reshape(3, 2, 4, 25).sum(dim=2) == 2).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_n_m_of_a_transposed_convolution(groups: int) -> None:
    model = Model.from_module(nn.ConvTranspose2d(8, 6, 3, groups=groups))
    gone = ~n_m(2, 4)(magnitude(), model, Config(0.5))["weight"]
    assert (gone.reshape(2, 4, -1).sum(dim=1) == 2).all()


def test_runs_do_not_reach_across_groups() -> None:
    model = Model.from_module(nn.ConvTranspose2d(12, 4, 3, groups=2))
    with pytest.raises(ConfigError, match="has 6 weights along the input axis, not a multiple of 4"):
        n_m(2, 4)(magnitude(), model, Config(0.5))


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_a_transposed_convolution(groups: int) -> None:
    model = Model.from_module(nn.ConvTranspose2d(4, 6, 3, groups=groups))
    gone = ~balanced()(magnitude(), model, Config(0.5))["weight"]
    for g in range(groups):
        for unit in range(6 // groups):
            row = gone[g * (4 // groups) : (g + 1) * (4 // groups), unit]
            assert int(row.sum()) == row.numel() // 2


def test_a_vector_is_one_row() -> None:
    params = {"scale": torch.tensor([4.0, 1.0, 3.0, 2.0])}
    config = Config([{"op_names": ["scale"], "sparsity": 0.5}])
    assert balanced()(magnitude(), params, config)["scale"].tolist() == [True, False, True, False]
    assert n_m(1, 2)(magnitude(), params, config)["scale"].tolist() == [True, False, True, False]


@pytest.mark.parametrize("allocation", [balanced(2), balanced((1, 2)), n_m(1, 2)])
def test_what_is_masked_counts_in_its_block(allocation) -> None:
    params = {"w": torch.tensor([[9.0, 1.0, 5.0, 6.0]])}
    masks = Masks({"w": torch.tensor([[False, True, True, True]])})
    found = allocation(magnitude(), Scope.of(params, masks=masks), Config(0.5))
    assert found["w"].tolist() == [[False, True, False, True]]
    found = allocation(magnitude(), Scope.of(params, masks=masks), Config(0.0))
    assert found["w"].tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("allocation", [balanced(2), balanced((2, 2)), balanced(), n_m(1, 2)])
def test_blocks_are_those_of_the_original_model(allocation) -> None:
    whole = {"w": weights(6, 8)}
    rows, columns = torch.tensor([0, 1, 2, 5]), torch.tensor([0, 2, 3, 5, 6, 7])
    lineage = Lineage(Flat({"w": (6, 8)}), Flat({"w": (rows, columns)}))
    gone = torch.zeros(6, 8, dtype=torch.bool)
    gone[rows[:, None], columns] = True
    masked = Scope.of(whole, masks=Masks({"w": gone}))
    compact = Scope.of(dict(lineage.slice(whole)), lineage=lineage)
    for sparsity in (0.0, 0.25, 0.5):
        expected = allocation(magnitude(), masked, Config(sparsity))["w"][rows][:, columns]
        assert torch.equal(allocation(magnitude(), compact, Config(sparsity))["w"], expected)


@pytest.mark.parametrize("allocation", [balanced(2), n_m(1, 2)])
def test_runs_of_units_are_those_of_the_original_model(allocation) -> None:
    whole = {"w": weights(8, 3), "v": weights(4, 2)}
    lineage = Lineage(Flat({"w": (8, 3), "v": (4, 2)}), Flat({"w": (torch.tensor([0, 3, 4, 5, 7]), None)}))
    compact = Scope.of(dict(lineage.slice(whole)), lineage=lineage)
    found = allocation(channel_norm(), compact, Config(0.5))["w"].flatten().tolist()
    norms = whole["w"].abs().sum(dim=1)
    assert found[0] and found[1] and found[4]  # each is the last of its pair
    assert found[2:4] == [bool(norms[4] > norms[5]), bool(norms[5] > norms[4])]


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        (balanced(4), "layer 'w' has 10 weights in a row, not a multiple of 4"),
        (balanced((4, 2)), "layer 'w' has 6 weights along dimension 0, not a multiple of 4"),
        (balanced((2, 2, 2)), r"a block of 3 dimensions does not fit 'w' of shape \(6, 10\)"),
        (n_m(2, 4), "layer 'w' has 10 weights along the input axis, not a multiple of 4"),
        (balanced(1), r"balanced\(1\) makes blocks of one in layer 'w'"),
    ],
)
def test_what_does_not_divide_is_refused(allocation, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allocation(magnitude(), {"w": weights(6, 10)}, Config(0.5))


def test_units_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="layer 'w' has 6 units, not a multiple of 4"):
        n_m(2, 4)(channel_norm(), {"w": weights(6, 10)}, Config(0.5))
    with pytest.raises(ConfigError, match="is a block of weights, and the criterion scores channels"):
        balanced((2, 2))(channel_norm(), {"w": weights(6, 10)}, Config(0.5))


def test_more_than_the_pattern_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"n_m\(2, 4\) removes 0\.5 and cannot reach sparsity 0\.6\nhint: ask for 0\.5"
    ):
        n_m(2, 4)(magnitude(), {"w": weights(4, 4)}, Config(0.6))


@pytest.mark.parametrize("arguments", [(4, 4), (0, 4), (5, 4), (-1, 2)])
def test_impossible_patterns_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="expected 1 <= n < m"):
        n_m(*arguments)


@pytest.mark.parametrize("arguments", [(2.0, 4), (True, 4), (2, "4")])
def test_patterns_are_made_of_ints(arguments: tuple[object, object]) -> None:
    with pytest.raises(ConfigTypeError, match="n_m: expected an int for"):
        n_m(*arguments)


@pytest.mark.parametrize("block", ["2", 2.0, True, (2, 2.0), ()])
def test_blocks_are_ints(block: object) -> None:
    with pytest.raises(ConfigTypeError, match="balanced: expected a block"):
        balanced(block)


@pytest.mark.parametrize("block", [0, -2, (2, 0)])
def test_blocks_are_positive(block: object) -> None:
    with pytest.raises(ConfigError, match="balanced: expected a positive block"):
        balanced(block)
