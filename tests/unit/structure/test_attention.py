"""Attention with heads of its own width: torch's layer is the oracle."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from fprune import Masks, Model, inputs
from fprune.errors import StructureError
from fprune.structure import compact, trace
from fprune.structure.attention import PrunedMultiheadAttention

KINDS: dict[str, dict[str, Any]] = {"packed": {}, "apart": {"kdim": 5, "vdim": 7}, "no bias": {"bias": False}}
MASK = torch.tensor([[False, True, True, False, False]]).repeat(6, 1)
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "mask": {"attn_mask": MASK},
    "added mask": {
        "attn_mask": torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5),
        "average_attn_weights": False,
    },
    "mask of each head": {"attn_mask": MASK.expand(6, 6, 5)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, True, True, True]])},
}


@pytest.mark.parametrize(("kind", "call", "batch_first"), list(itertools.product(KINDS, CALLS, (True, False))))
def test_it_computes_what_torch_does(kind: str, call: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    given = KINDS[kind]
    old = nn.MultiheadAttention(12, 3, batch_first=batch_first, **given).double().eval()
    new = PrunedMultiheadAttention.like(old, 4, 0.5)
    q, k = torch.randn(2, 6, 12).double(), torch.randn(2, 5, given.get("kdim", 12)).double()
    v = torch.randn(2, 5, given.get("vdim", 12)).double()
    q, k, v = (x if batch_first else x.transpose(0, 1) for x in (q, k, v))
    expected, found = old(q, k, v, **CALLS[call]), new(q, k, v, **CALLS[call])
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    assert (found[1] is None) == (expected[1] is None)
    if found[1] is not None:
        torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)


def test_without_a_batch() -> None:
    old = nn.MultiheadAttention(12, 3).double().eval()
    new, x = PrunedMultiheadAttention.like(old, 4, 0.5), torch.randn(4, 12).double()
    for found, expected in zip(new(x, x, x), old(x, x, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_its_state_has_torchs_names() -> None:
    old, new = nn.MultiheadAttention(12, 3), PrunedMultiheadAttention(12, 3, 4, scale=0.5)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new.in_proj_weight, old.in_proj_weight) and "heads=3, head_dim=4" in repr(new)


def test_what_it_does_not_do_is_refused() -> None:
    for option in ("add_bias_kv", "add_zero_attn"):
        with pytest.raises(StructureError, match=option):
            PrunedMultiheadAttention.like(nn.MultiheadAttention(12, 3, **{option: True}), 4, 0.5)


class Block(nn.Module):
    """Self-attention on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 24), nn.Linear(24, 3)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.i(x)
        return self.o(h + self.attention(h, h, h)[0])


@pytest.mark.parametrize("rounds", [1, 2])
def test_heads_head_entries_and_channels_go(rounds: int) -> None:
    torch.manual_seed(0)
    model, x = Model.from_module(Block().double()), torch.randn(2, 5, 6).double()
    structure, y = trace(model, inputs(x)), torch.randn(7, 3, 6).double()
    assert sorted(map(len, structure.families)) == [4, 6, 24]
    for _ in range(rounds):
        masks: dict[str, torch.Tensor] = {}
        for family in structure.families:
            gone = family.slices if len(family) > 1 else ()
            for part in gone:
                mask = masks.setdefault(part.tensor, torch.ones(model[part.tensor].shape, dtype=torch.bool))
                mask.index_fill_(part.dim, torch.from_numpy(part.index[: len(family) // 3].reshape(-1)), False)
        masked = model.replace(Masks(masks).apply(model))
        done = compact(model, Masks(masks), structure, style="module")
        torch.testing.assert_close(done.model(y), masked(y), rtol=1e-12, atol=1e-12)
        model, structure = done.model, done.structure
    attention = model.to_module().attention
    heads, entries, width = {1: (3, 4, 16), 2: (2, 3, 11)}[rounds]
    assert type(attention) is PrunedMultiheadAttention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (heads, entries, width)
    assert attention.scale == 6**-0.5
