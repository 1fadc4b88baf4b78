"""Multi-head attention whose heads are fewer or narrower than its embedding."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune.errors import StructureError


class PrunedMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with a number of heads and a head width of its own.

    Torch's class has `embed_dim = num_heads * head_dim`; once heads, head entries or embedding channels are gone that
    no longer holds. The parameters have torch's names, so that a `state_dict` fits; `scale` stays what it was.

        out = concat_h(softmax(scale q_h k_h^T) v_h) W_out + b_out

    Examples:
        >>> attention = PrunedMultiheadAttention(6, 2, 4, scale=0.5, batch_first=True)
        >>> x = torch.ones(1, 3, 6)
        >>> attention(x, x, x)[0].shape, attention.in_proj_weight.shape
        (torch.Size([1, 3, 6]), torch.Size([24, 6]))

    Args:
        embed_dim: width of queries and outputs.
        num_heads: number of heads.
        head_dim: width of queries, keys and values of a head.
        scale: factor of the attention logits, `1 / sqrt(head_dim)` of the original model.
        dropout: probability with which attention weights are dropped in training.
        bias: whether the projections have biases.
        kdim: width of keys; the same as `embed_dim` by default.
        vdim: width of values; likewise.
        batch_first: whether inputs are `(batch, position, channel)` rather than `(position, batch, channel)`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        scale: float,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        """Make fresh parameters, drawn as torch draws them."""
        nn.Module.__init__(self)
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads, self.head_dim, self.scale = num_heads, head_dim, scale
        self.dropout, self.batch_first = dropout, batch_first
        self._qkv_same_embed_dim = False  # torch's fast path assumes the sizes of its own class
        self.bias_k = self.bias_v = None
        self.add_zero_attn = False
        width = num_heads * head_dim
        packed = self.kdim == embed_dim and self.vdim == embed_dim
        shapes = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        self.register_parameter("in_proj_weight", _drawn(3 * width, embed_dim) if packed else None)
        for name, size in shapes.items():
            self.register_parameter(f"{name}_proj_weight", None if packed else _drawn(width, size))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(3 * width)) if bias else None)
        self.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(width, embed_dim, bias=bias)

    @staticmethod
    def like(old: nn.MultiheadAttention, head_dim: int, scale: float) -> "PrunedMultiheadAttention":
        """A layer that holds the (already cut) parameters of another.

        Args:
            old: the layer, whose parameters have their new shapes and whose attributes may still be the old ones.
            head_dim: the new width of a head.
            scale: the factor of the attention logits.

        Raises:
            StructureError: the layer adds keys of its own (`add_bias_kv`, `add_zero_attn`).
        """
        if old.bias_k is not None or old.add_zero_attn:
            raise StructureError("attention with add_bias_kv or add_zero_attn")
        embed_dim, width = old.out_proj.weight.shape
        held = dict(old.named_parameters(recurse=False))
        kdim, vdim = (held.get(name, old.in_proj_weight).shape[1] for name in ("k_proj_weight", "v_proj_weight"))
        with torch.device("meta"):
            new = PrunedMultiheadAttention(
                embed_dim,
                width // head_dim,
                head_dim,
                scale=scale,
                dropout=old.dropout,
                bias="in_proj_bias" in held,
                kdim=kdim,
                vdim=vdim,
                batch_first=old.batch_first,
            )
        for name, parameter in held.items():
            new.register_parameter(name, parameter)
        new.add_module("out_proj", old.out_proj)
        return new.train(old.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as `nn.MultiheadAttention` does with the same arguments.

        Args:
            query: `(batch, L, embed_dim)` if `batch_first`, else `(L, batch, embed_dim)`; unbatched without the batch.
            key: likewise, `(batch, S, kdim)`.
            value: likewise, `(batch, S, vdim)`.
            key_padding_mask: `(batch, S)`, True (or -inf) where a key is to be ignored.
            need_weights: whether to return the attention weights.
            attn_mask: `(L, S)` or `(batch * num_heads, L, S)`, True (or -inf) where attention is not allowed.
            average_attn_weights: whether the returned weights are the mean over the heads.
            is_causal: a hint that `attn_mask` is causal; the mask itself is what counts.

        Returns:
            The outputs, shaped like `query`, and the weights `(batch, L, S)` or None.
        """
        del is_causal
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        inputs = [x.transpose(0, 1) if batched and not self.batch_first else x for x in inputs]
        q, k, v = (self._heads(x, w, b) for x, (w, b) in zip(inputs, self._projections(), strict=True))
        logits = (q * self.scale) @ k.transpose(-2, -1)
        if attn_mask is not None:
            heads = self.num_heads if attn_mask.dim() == 3 else 1
            logits = logits + _additive(attn_mask, logits).view(-1, heads, *attn_mask.shape[-2:])
        if key_padding_mask is not None:
            logits = logits + _additive(key_padding_mask, logits).view(-1, 1, 1, key_padding_mask.shape[-1])
        weights = F.dropout(logits.softmax(-1), self.dropout, self.training)
        out = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        out = out.transpose(0, 1) if batched and not self.batch_first else out
        found = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        return (out, found) if batched else (out.squeeze(0), None if found is None else found.squeeze(0))

    def _projections(self) -> list[tuple[Tensor, Tensor | None]]:
        packed, bias = cast("tuple[Tensor | None, Tensor | None]", (self.in_proj_weight, self.in_proj_bias))
        weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight] if packed is None else packed.chunk(3)
        biases: Sequence[Tensor | None] = [None] * 3 if bias is None else bias.chunk(3)
        return list(zip(weights, biases, strict=True))

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias).view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.embed_dim}, heads={self.num_heads}, head_dim={self.head_dim}, scale={self.scale:.4g}"


def _drawn(rows: int, columns: int) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(rows, columns))
    nn.init.xavier_uniform_(weight)
    return weight


def _additive(mask: Tensor, logits: Tensor) -> Tensor:
    """A mask as something to add: -inf where it is True."""
    return (
        torch.zeros_like(mask, dtype=logits.dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
    )
