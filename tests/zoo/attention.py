"""Attention in the many ways it is written: separate and fused projections, shared keys, rotations, biases, einsum."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STREAM, HEADS, WIDTH, VALUE = 12, 3, 4, 5


class Attention(nn.Module):
    """A residual attention block between two linear layers; `attend` makes `(batch, positions, heads * VALUE)`."""

    def __init__(self, heads: int = HEADS, kv_heads: int = HEADS, value: int = VALUE) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.inp = nn.Linear(6, STREAM)
        self.q = nn.Linear(STREAM, heads * WIDTH)
        self.k = nn.Linear(STREAM, kv_heads * WIDTH)
        self.v = nn.Linear(STREAM, kv_heads * value)
        self.o = nn.Linear(heads * value, STREAM)
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        return self.out(x + self.o(self.attend(x)))

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.split(self.q(x), self.heads),
            self.split(self.k(x), self.kv_heads),
            self.split(self.v(x), self.kv_heads),
        )

    def joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH)).softmax(-1)
        return self.joined(weights @ v)


class Whole(Attention):
    """torch's own operator, with its default scale."""

    def attend(self, x: Tensor) -> Tensor:
        return self.joined(F.scaled_dot_product_attention(*self.projected(x), is_causal=True))


class Fused(nn.Module):
    """One projection for queries, keys and values, taken apart by unbind; two norms on the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        self.norm1, self.norm2 = nn.LayerNorm(STREAM), nn.LayerNorm(STREAM)
        self.qkv = nn.Linear(STREAM, 3 * HEADS * WIDTH)
        self.proj = nn.Linear(HEADS * WIDTH, STREAM)
        self.up, self.down = nn.Linear(STREAM, 20), nn.Linear(20, STREAM)
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.out(x + self.down(F.gelu(self.up(self.norm2(x)))))


class Grouped(Attention):
    """Two heads of keys and values for six of queries, repeated in one of three ways."""

    def __init__(self, repeat: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(6, 2)
        self.repeat = repeat

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        if self.repeat is None:
            return self.joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
        return self.joined(F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v)))


def interleaved(x: Tensor) -> Tensor:
    return x.repeat_interleave(3, dim=1)


def expanded(x: Tensor) -> Tensor:
    b, heads, n, width = x.shape
    return x[:, :, None].expand(b, heads, 3, n, width).reshape(b, heads * 3, n, width)


class Rotary(Attention):
    """Queries and keys turned by an angle that grows with the position: two halves of a head make pairs."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__(value=3)
        self.register_buffer("inv_freq", torch.tensor([1.0, 0.1]))

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[2], device=x.device, dtype=x.dtype), self.inv_freq)
        angle = torch.cat([angle, angle], -1)
        first, second = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        return self.joined(F.scaled_dot_product_attention(self.turned(q), self.turned(k), v))


class Biased(Attention):
    """A slope for each head, and a learned bias for each head and pair of positions."""

    slopes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125]))
        self.bias = nn.Parameter(torch.zeros(HEADS, 5, 5))

    def attend(self, x: Tensor) -> Tensor:
        position = torch.arange(x.shape[1], device=x.device)
        far = (position[None] - position[:, None]).abs()
        mask = self.bias - self.slopes[:, None, None] * far
        return self.joined(F.scaled_dot_product_attention(*self.projected(x), attn_mask=mask))


class Cross(Attention):
    """Keys and values from another stream."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(7, HEADS * WIDTH), nn.Linear(7, HEADS * VALUE)
        self.memory = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        other, x = F.relu(self.memory(x.flip(1))), self.inp(x)
        q = self.split(self.q(x), HEADS)
        k, v = (self.split(layer(other), HEADS) for layer in (self.k, self.v))
        return self.out(x + self.o(self.joined(F.scaled_dot_product_attention(q, k, v))))


class Lettered(nn.Module):
    """Weights of (heads, in, out) and einsum throughout; three factors in the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        self.wq = nn.Parameter(torch.zeros(HEADS, STREAM, WIDTH))
        self.wk = nn.Parameter(torch.zeros(HEADS, STREAM, WIDTH))
        self.wv = nn.Parameter(torch.zeros(HEADS, STREAM, VALUE))
        self.wo = nn.Parameter(torch.zeros(HEADS, VALUE, STREAM))
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        q, k, v = (torch.einsum("bnd,hde->bhne", x, w) for w in (self.wq, self.wk, self.wv))
        weights = torch.einsum("bhne,bhme->bhnm", q, k).softmax(-1)
        return self.out(x + torch.einsum("bhnm,bhme,hed->bnd", weights, v, self.wo))


class Kernel(Attention):
    """Linear attention: keys times values first, with features that keep 0 at 0."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        q, k = q.relu(), k.relu()
        norm = (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True) + 1
        return self.joined(q @ (k.transpose(-1, -2) @ v) / norm)


class Torch(nn.Module):
    """`nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        self.attention = nn.MultiheadAttention(STREAM, HEADS, batch_first=True)
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


class Encoder(nn.Module):
    """`nn.TransformerEncoder`."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        layer = nn.TransformerEncoderLayer(STREAM, HEADS, 20, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.inp(x)).mean(1))


class Added(nn.Module):
    """Layers written `torch.addmm(bias, x, weight)`, as in GPT-2, and a raw product without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        self.bias1, self.weight1 = nn.Parameter(torch.zeros(20)), nn.Parameter(torch.zeros(STREAM, 20))
        self.bias2, self.weight2 = nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(20, 10))
        self.weight3 = nn.Parameter(torch.zeros(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        rows = x.view(-1, x.shape[-1])
        rows = torch.sigmoid(torch.addmm(self.bias1, rows, self.weight1))
        rows = torch.addmm(self.bias2, rows, self.weight2).relu()
        return rows.view(x.shape[0], x.shape[1], -1) @ self.weight3


class Decomposed(nn.Module):
    """Norms written out: root mean square with `1 + weight`, mean and variance, a norm of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, STREAM)
        self.weight = nn.Parameter(torch.zeros(STREAM))
        self.scale, self.shift = nn.Parameter(torch.zeros(STREAM)), nn.Parameter(torch.zeros(STREAM))
        self.mid = nn.Linear(STREAM, STREAM)
        self.out = nn.Linear(STREAM, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * (1 + self.weight)
        x = x + self.mid(x)
        var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-3) * self.scale + self.shift
        return self.out(F.normalize(x, dim=-1))
