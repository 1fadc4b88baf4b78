"""Small models that engines stumble over: writes through views, shared and tied weights, odd types and sizes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.toys import Written

ODD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {}


def odd(*shape: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a forward pass over `a` (4 to 8), `b` (8 to 2), `c` (4 to 8) and what the function is annotated with."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        made = fn.__defaults__[0] if fn.__defaults__ else dict
        image = len(shape) == 3

        def build() -> nn.Module:
            if image:
                usual = {"a": conv(3, 8), "b": conv(8, 2), "c": conv(3, 8)}
            else:
                usual = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2), "c": nn.Linear(4, 8)}
            return Written(fn, **{**usual, **made()})

        ODD[fn.__name__] = build, shape
        return fn

    return register


def conv(into: int, out: int, kernel: int = 3, **rest: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **rest)


def some(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


# Writes in place, through views, into inputs and buffers


@odd(4)
def half_of_it_is_scaled(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    y[:, :4].mul_(2.0)
    return self.b(y)


@odd(4)
def one_row_of_a_view_is_added_to(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    grid = y.view(-1, 2, 4)
    grid[:, 0].add_(grid[:, 1])
    return self.b(y)


@odd(4)
def the_base_is_written_before_its_view_is_read(
    self: Written, x: Tensor, made: Any = lambda: {"c": nn.Linear(4, 2)}
) -> Any:
    y = self.a(x)
    middle = y[:, 2:6]
    y.relu_()
    return self.b(y) + self.c(middle)


@odd(4)
def a_view_of_a_view_is_zeroed(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    y.t()[3:5].zero_()
    return self.b(y)


@odd(4)
def single_columns_are_assigned(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    y[:, 1] = y[:, 2] * 3
    y[:, -1] = 0.5
    return self.b(y)


@odd(4)
def halves_are_assembled(self: Written, x: Tensor, made: Any = lambda: {"c": nn.Linear(4, 4)}) -> Any:
    y = self.a(x)
    z = torch.zeros_like(y)
    z[:, :4] = y[:, 4:]
    z[:, 4:] = self.c(x)
    return self.b(z)


@odd(4)
def a_weight_is_edited(self: Written, x: Tensor, made: Any = lambda: {"w": some(8, 4)}) -> Any:
    w = self.w * 1
    w[0] = w[1]
    return self.b(F.linear(x, w))


@odd(4)
def a_detached_alias_is_scaled(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    y.detach().mul_(3)
    return self.b(y)


@odd(4)
def an_empty_tensor_is_filled(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    z = y.new_empty(y.shape)
    z.copy_(y)
    z[:, 0:2].fill_(1.0)
    return self.b(z)


@odd(4)
def the_input_is_written(self: Written, x: Tensor) -> Any:
    x.add_(1)
    y = self.b(self.a(x).relu())
    x.mul_(2)
    return y + x[:, :2]


@odd(4)
def buffers_are_updated(
    self: Written, x: Tensor, made: Any = lambda: {"count": torch.zeros((), dtype=torch.long), "run": torch.randn(8)}
) -> Any:
    y = self.a(x)
    self.count += 1
    self.run.mul_(0.9).add_(y.mean(0) * 0.1)
    return self.b(y - self.run)


# Shared and tied weights


@odd(5, 4)
def a_layer_sees_two_and_three_dimensions(self: Written, x: Tensor) -> Any:
    return self.b(self.a(x)).mean(1) + self.b(self.a(x.mean(1)))


@odd(6)
def a_weight_and_its_transpose(self: Written, x: Tensor, made: Any = lambda: {"a": nn.Linear(6, 8, False)}) -> Any:
    return F.linear(torch.relu(self.a(x)), self.a.weight.t())


@odd(8)
def a_square_weight_both_ways(self: Written, x: Tensor, made: Any = lambda: {"w": some(8, 8)}) -> Any:
    y = torch.relu(F.linear(x, self.w))
    y = torch.relu(F.linear(y, self.w.t()))
    return self.b(torch.relu(F.linear(y, self.w)))


@odd(4)
def one_vector_is_bias_and_scale(self: Written, x: Tensor, made: Any = lambda: {"g": some(8)}) -> Any:
    return self.b(F.linear(x, self.a.weight, self.g) * self.g)


@odd(4)
def the_weight_is_returned_as_a_sum(self: Written, x: Tensor) -> Any:
    return self.b(self.a(x).relu()), self.a.weight.abs().sum()


@odd(4)
def outputs_alias_the_input(self: Written, x: Tensor) -> Any:
    return x, self.b(self.a(x).relu()), x.view(-1)


# Norms and modes


@odd(3, 8, 8)
def batch_statistics_in_evaluation(
    self: Written, x: Tensor, made: Any = lambda: {"w": some(8), "s": some(8), "m": torch.zeros(8), "v": torch.ones(8)}
) -> Any:
    return self.b(F.batch_norm(self.a(x), self.m, self.v, self.w, self.s, training=True).relu())


@odd(3, 8, 8)
def no_running_statistics(
    self: Written, x: Tensor, made: Any = lambda: {"n": nn.BatchNorm2d(8, track_running_stats=False)}
) -> Any:
    return self.b(self.n(self.a(x)).relu())


@odd(3, 8, 8)
def cumulative_statistics(self: Written, x: Tensor, made: Any = lambda: {"n": nn.BatchNorm2d(8, momentum=None)}) -> Any:
    return self.b(self.n(self.a(x)).relu())


@odd(4)
def statistics_by_hand(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    centred = y - y.mean(-1, keepdim=True)
    return self.b(centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-3))


@odd(3, 8, 8)
def a_standardised_weight(self: Written, x: Tensor) -> Any:
    w = self.b.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return F.conv2d(self.a(x).relu(), w, self.b.bias, padding=1)


@odd(3, 8, 8)
def a_weight_standardised_by_batch_norm(self: Written, x: Tensor, made: Any = lambda: {"g": some(2)}) -> Any:
    rows = self.b.weight.reshape(1, 2, -1)
    w = F.batch_norm(rows, None, None, self.g, training=True, momentum=0.0).reshape_as(self.b.weight)
    return F.conv2d(self.a(x).relu(), w, self.b.bias)


@odd(3, 8, 8)
def attention_over_positions(self: Written, x: Tensor, made: Any = lambda: {"c": conv(2, 1)}) -> Any:
    y = self.a(x)
    both = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return self.b(y * torch.sigmoid(self.c(both)))


@odd(3, 8, 8)
def channels_last(self: Written, x: Tensor) -> Any:
    y = self.a(x.contiguous(memory_format=torch.channels_last))
    return self.b(y.relu_()).contiguous()


# Types and sizes


@odd(4)
def a_scalar_parameter(self: Written, x: Tensor, made: Any = lambda: {"t": some()}) -> Any:
    return self.b(self.a(x) * self.t) + self.t


@odd(4)
def empty_tensors(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(torch.cat([y, y[:, :0], x.new_zeros(len(x), 0)], 1))


@odd(4)
def complex_numbers(self: Written, x: Tensor) -> Any:
    z = torch.view_as_complex(self.a(x).view(-1, 4, 2)) * (1 + 2j)
    return self.b(torch.view_as_real(z).flatten(1))


@odd(5, 4)
def fourier_over_tokens(self: Written, x: Tensor) -> Any:
    return self.b(torch.fft.fft(self.a(x), dim=1).real).mean(1)


@odd(4)
def integer_parameters(
    self: Written, x: Tensor, made: Any = lambda: {"k": nn.Parameter(torch.arange(1, 9), requires_grad=False)}
) -> Any:
    return self.b(self.a(x) * self.k)


@odd(4)
def a_choice_by_channel(self: Written, x: Tensor, made: Any = lambda: {"m": torch.tensor([True, False] * 4)}) -> Any:
    return self.b(torch.where(self.m, self.a(x), self.c(x)))


@odd(4)
def picked_by_a_mask(
    self: Written, x: Tensor, made: Any = lambda: {"m": torch.tensor([True, False] * 4), "b": nn.Linear(4, 2)}
) -> Any:
    return self.b(self.a(x)[:, self.m])


@odd(4)
def picked_with_repetition(self: Written, x: Tensor, made: Any = lambda: {"b": nn.Linear(4, 2)}) -> Any:
    return self.b(self.a(x)[:, [6, 1, 2, 1]])


@odd(3, 8, 8)
def negative_dimensions(self: Written, x: Tensor, made: Any = lambda: {"b": conv(10, 2)}) -> Any:
    y = self.a(x)
    y = torch.cat([y, y.flip(-3)], -3).transpose(-3, -1).transpose(-1, -3)
    return self.b(y.narrow(-3, 2, 10)).mean((-1, -2))


@odd(4)
def a_size_is_a_factor(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(y / y.shape[1]) * y.size(-1)


@odd(4)
def a_size_is_a_condition(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(y * 2 if y.shape[1] == 8 else y)


@odd(4)
def every_pair_of_channels(self: Written, x: Tensor, made: Any = lambda: {"b": nn.Linear(64, 2)}) -> Any:
    y = self.a(x)
    return self.b((y[:, :, None] * y[:, None, :]).flatten(1))


@odd(4)
def every_pair_of_two(
    self: Written, x: Tensor, made: Any = lambda: {"c": nn.Linear(4, 5), "b": nn.Linear(40, 2)}
) -> Any:
    return self.b((self.a(x)[:, :, None] * self.c(x)[:, None, :]).flatten(1))


@odd(4)
def similarities_of_samples(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return y @ y.t()


@odd(4)
def the_largest_channel_alone(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(torch.zeros_like(y).scatter(-1, y.argmax(-1, keepdim=True), 1.0) * y)


@odd(4)
def sorted_channels(self: Written, x: Tensor) -> Any:
    return self.b(self.a(x).sort(-1)[0])


@odd(4)
def powers_and_cosines(self: Written, x: Tensor, made: Any = lambda: {"c": nn.Linear(8, 2)}) -> Any:
    return self.b(self.a(x).abs() ** 0) + self.c(torch.cos(self.a(x)))


@odd(4)
def replaced_where_positive(self: Written, x: Tensor) -> Any:
    y = self.a(x)
    return self.b(y.masked_fill(y > 0, -1.0))


@odd(3, 8, 8)
def channels_become_samples(self: Written, x: Tensor, made: Any = lambda: {"k": conv(1, 1)}) -> Any:
    y = self.a(x)
    n, c, h, w = y.shape
    return self.b(self.k(y.reshape(n * c, 1, h, w)).reshape(n, c, h, w))


@odd(3, 8, 8)
def channels_become_rows(self: Written, x: Tensor) -> Any:
    return self.b(self.a(x).permute(0, 2, 1, 3))


@odd(3, 8, 8)
def coordinates_are_appended(self: Written, x: Tensor, made: Any = lambda: {"b": conv(9, 2)}) -> Any:
    y = self.a(x)
    line = torch.linspace(0, 1, 8, dtype=y.dtype).expand(len(y), 1, 8, 8)
    return self.b(torch.cat([y, line], 1))


@odd(4)
def plain_tensors_are_kept_in_lists(self: Written, x: Tensor) -> Any:
    return self.b(self.a(x) * torch.tensor([1.0, 2.0] * 4, dtype=x.dtype))
