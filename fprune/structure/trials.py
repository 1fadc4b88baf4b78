"""On which inputs, and in which precision, two models are compared."""

import contextlib
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.branches import Turned
from fprune.structure.capture import cloned, tensors_mapped
from fprune.structure.outputs import leaves
from fprune.structure.wide import Wide
from fprune.tree import Flat, generator

_CROPPED = 64  # pixels to a side of the inputs that are tried first


@attrs.frozen(eq=False)
class Trial:
    """One way of running a model.

    Args:
        name: how a report calls it.
        inputs: arguments of the forward pass.
        wide: whether every operator computes in float64.
        turned: a line at which a choice made from the inputs comes out the other way, `file:line`; empty for none.
    """

    name: str
    inputs: Inputs
    wide: bool = False
    turned: str = ""

    def returned(self, model: Model) -> Any:
        """Run a model in evaluation mode on copies of the inputs; numbers that it draws are the same every time."""
        args, kwargs = cloned((self.inputs.args, dict(self.inputs.kwargs)))
        with _seeded(model.device), self.precision():
            return model.eval()(*args, **kwargs)

    @contextlib.contextmanager
    def precision(self) -> Generator[None]:
        """The context in which operators have this trial's precision; composite ones reach the wide mode whole."""
        if self.wide:
            with torch.inference_mode(), Wide():
                yield
        elif self.turned:
            with torch.inference_mode(), Turned(self.turned):
                yield
        else:
            with torch.no_grad():
                yield


def example(inputs: Inputs) -> Trial:
    """The example inputs as they were given."""
    return Trial("example inputs", inputs)


def turned(inputs: Inputs, at: str) -> Trial:
    """The example inputs, with the choice at a line turned."""
    return Trial(f"the branch not taken at {at}", inputs, turned=at)


def cheap(inputs: Inputs, batch: int) -> list[Trial]:
    """Another batch size on drawn inputs that cost little: one sample, images cropped.

    Nothing for a single sample that is no image. Only what passes counts: a model need not take images of any size, and
    a single sample is special where dimensions of size 1 vanish.
    """
    other = 1 if batch > 1 else 2
    small = _mapped(_crop, inputs)
    crops = any(a is not b for a, b in zip(_tensors(inputs), _tensors(small), strict=True))
    if not batch or (batch == 1 and not crops):
        return []
    resized = _drawn(_mapped(partial(_resized, batch, other), small), permute=True)
    return [Trial(f"drawn inputs, batch {other}{', cropped' if crops else ''}, float64", resized, wide=True)]


def drawn(inputs: Inputs, batch: int) -> list[Trial]:
    """Other inputs and another batch size, in float64, then the same with less of that, for models that insist.

    Args:
        inputs: the example inputs.
        batch: the size of the first dimension of the first of them; 0 when there is none.
    """
    other = _other(batch)
    resized = _mapped(partial(_resized, batch, other), inputs) if batch else inputs
    trials = [Trial(f"drawn inputs, batch {other}, float64", _drawn(resized, permute=True), wide=True)] if batch else []
    indices = any(_is_index(x) for x in _tensors(inputs))
    if indices and batch:
        trials.append(Trial(f"drawn inputs, same indices, batch {other}, float64", _drawn(resized), wide=True))
    trials.append(Trial("drawn inputs, float64", _drawn(inputs, permute=True), wide=True))
    if indices:
        trials.append(Trial("drawn inputs, same indices, float64", _drawn(inputs), wide=True))
    trials.append(Trial("drawn inputs", _drawn(inputs)))
    return trials


def _other(batch: int) -> int:
    """Another batch size: small, and more than 1, at which dimensions vanish."""
    return 3 if batch == 2 else 2


def _tensors(inputs: Inputs) -> list[Tensor]:
    return leaves((inputs.args, dict(inputs.kwargs)))


def _mapped(fn: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    args, kwargs = tensors_mapped(fn, (inputs.args, dict(inputs.kwargs)))
    return Inputs(args, Flat(kwargs))


def _crop(x: Tensor) -> Tensor:
    if x.ndim < 4 or not x.is_floating_point():
        return x
    for d in range(1, x.ndim):
        if x.shape[d] >= 2 * _CROPPED:
            x = x.narrow(d, 0, _CROPPED)
    return x


def _resized(batch: int, other: int, x: Tensor) -> Tensor:
    if not x.ndim or x.shape[0] != batch:
        return x
    return x[:other] if other < batch else torch.cat([x, x[:1].expand(other - batch, *x.shape[1:])])


def _drawn(inputs: Inputs, *, permute: bool = False) -> Inputs:
    """Other values that a model may expect where it got these.

    Floating-point inputs get the mean, spread and range of those given, a standard normal where they are one constant.
    Indices change place, if `permute`. What is likely a mask stays: zeros and ones, and minus infinity.
    """
    source = generator(0, "verify")

    def draw(x: Tensor) -> Tensor:
        if not x.numel() or x.dtype == torch.bool or x.is_complex():
            return x
        if not x.is_floating_point():
            order = torch.randperm(x.numel(), generator=source).to(x.device)
            return x.flatten()[order].view(x.shape) if permute and _is_index(x) else x
        if not x.isfinite().all() or x.abs().max() > 1e3:
            return x
        noise = torch.randn(x.shape, generator=source, dtype=torch.float64).to(x)
        low, high = x.aminmax()
        return noise if low == high else (x.mean() + x.std() * noise).clamp(low, high)

    return _mapped(draw, inputs)


def _is_index(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.numel() > 0 and bool((x > 1).any())


@contextlib.contextmanager
def _seeded(device: torch.device) -> Generator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
