"""Add to the gradients of any training loop, once for each optimizer step."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["Penalty", "penalised"]

Penalty: TypeAlias = Mapping[str, Callable[[Tensor], Tensor]]
"""Parameter name -> the gradient of its penalty at the parameter's value."""


@contextmanager
def penalised(module: nn.Module, penalty: Penalty) -> Generator[None]:
    """Add the gradient of a penalty before every optimizer step, until the `with` block ends.

    What counts is the step and not `backward`, so gradients may be accumulated over batches, scaled and clipped before.
    Of an optimizer that is given a closure the penalty is added after the closure's own `backward`.

    Examples:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> weight = nn.init.constant_(layer.weight, 2.0)
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> with penalised(layer, {"weight": lambda w: 0.25 * w.sign()}):
        ...     sgd.step()
        >>> layer.weight.item()
        1.75

    Args:
        module: what is trained.
        penalty: parameter name -> function that gives the gradient of its penalty at a value.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    terms = {id(named[name]): (named[name], gradient) for name, gradient in penalty.items()}
    stepping: list[Optimizer] = []  # the outermost optimizer: one that wraps another steps once, not twice

    def add(optimizer: Optimizer) -> None:
        held = (id(param) for group in optimizer.param_groups for param in group["params"])
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides scaled gradients itself
        for param, gradient in [terms[key] for key in held if key in terms]:
            if param.requires_grad:
                with torch.no_grad():
                    grad = gradient(param.detach()).to(param) * (1 if scale is None else scale)
                param.backward(grad)  # adds to what is there, and makes it where nothing is

    def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if stepping and stepping[0] is not optimizer:
            return None
        stepping[:] = [optimizer]
        wrapped, given = _closure(args, kwargs)
        if given is None:
            add(optimizer)
            return None

        def closure() -> Any:
            value = given()
            add(optimizer)
            return value

        return wrapped(closure)

    def after_step(optimizer: Optimizer, *_: object) -> None:
        if stepping and stepping[0] is optimizer:
            stepping.clear()

    handles = [register_optimizer_step_pre_hook(before_step), register_optimizer_step_post_hook(after_step)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[[Any], _Arguments], Any]:
    """The closure in the arguments of `optimizer.step`, or None, and how to put another one in its place."""
    if len(args) > 1:  # the first is the optimizer
        return lambda closure: ((args[0], closure, *args[2:]), kwargs), args[1]
    return lambda closure: (args, {**kwargs, "closure": closure}), kwargs.get("closure")
