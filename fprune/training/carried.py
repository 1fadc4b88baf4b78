"""What a training function carries from one round to the next: given as a private copy, cut along with the model."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from fprune.checkpoint.trees import checked
from fprune.compose.call import expression
from fprune.errors import FpruneError, StageError
from fprune.lineage import Lineage
from fprune.model import Model
from fprune.shaped import is_optimizer_state
from fprune.tree import Flat

__all__ = ["Carrier", "carrying", "cut"]

Carrier = Callable[[nn.Module, Any], tuple[Mapping[str, float] | None, Any]]
"""Trains a module in place, given what it carried on in the round before, None at first; gives numbers and a tree."""


def carrying(fn: Carrier, carried: Flat[Any]) -> tuple[Callable[[nn.Module], Any], Callable[[], Flat[Any]]]:
    """A training function of a module alone, and afterwards what is carried on.

    Examples:
        >>> def train(module, state):
        ...     return {"loss": 0.5}, {"steps": 1 if state is None else state["steps"] + 1}
        >>> first, then = carrying(train, Flat())
        >>> first(nn.Linear(1, 1)), then()
        ({'loss': 0.5}, Flat(train={'steps': 1}))

    Args:
        fn: the user's function.
        carried: what all functions carried out of the round before, by name.
    """
    name = expression(fn)
    after = [carried]

    def train(module: nn.Module) -> Any:
        given = carried.get(name)
        returned = cast("Any", fn(module, None if given is None else checked(given, name)))
        if not isinstance(returned, tuple) or len(cast("tuple[Any, ...]", returned)) != 2:
            raise StageError(
                f"{name} returned {type(cast('object', returned)).__name__}, expected metrics and what it carries on",
                hint="return {'loss': 0.1}, {'optimizer': optimizer.state_dict()}; None for no metrics",
            )
        metrics, state = cast("tuple[Any, Any]", returned)
        after[0] = carried.merged({name: checked(state, name)})
        return metrics

    return train, lambda: after[0]


def cut(carried: Flat[Any], lineage: Lineage, before: Model, after: Model) -> Flat[Any]:
    """What is carried, for a model that a compaction made smaller.

    A tensor goes with the parameter whose name is a key on the way to it; the state of an optimizer with the names it
    was given, `SGD(module.named_parameters())`, or, of all parameters in one group, with their order in the module.

    Args:
        carried: trees by function name.
        lineage: the compaction, relative to `before`.
        before: the model before it.
        after: the smaller model.

    Raises:
        StageError: a tensor cannot be told to belong to a parameter.
    """
    names = [[name for name, _ in model.skeleton.named_parameters()] for model in (before, after)]

    def part(tree: Any) -> Any:
        if is_optimizer_state(tree):
            return lineage.slice_optimizer(tree, *_numbered(tree, *names))
        if isinstance(tree, dict) and any(is_optimizer_state(value) for value in cast("dict[Any, Any]", tree).values()):
            return {key: part(value) for key, value in cast("dict[Any, Any]", tree).items()}
        return lineage.slice(tree)

    def whole(name: str, tree: Any) -> Any:
        try:
            return part(tree)
        except (FpruneError, LookupError) as error:
            told, hint = (error.message, error.hint) if isinstance(error, FpruneError) else (str(error), "")
            raise StageError(
                f"what {name} carries cannot be cut with the model: {told}",
                hint=hint
                if isinstance(error, StageError)
                else "key its tensors by parameter name, or carry "
                "optimizer.state_dict() of SGD(module.named_parameters(), ...)",
            ) from error

    return carried.map_with_name(whole)


def _numbered(state: Any, before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    """The names of an optimizer's parameters by number, before and after a compaction.

    An optimizer that was given names knows them. Of another one the numbers mean what they seem to only when it has all
    parameters in one group: two layers may have the same shapes.
    """
    groups: list[dict[str, Any]] = state["param_groups"]
    if all("param_names" in group for group in groups):
        known = {i: name for group in groups for i, name in zip(group["params"], group["param_names"], strict=True)}
        old = [known[i] for i in range(len(known))]
        return old, [name for name in old if name in after] + [name for name in after if name not in before]
    if len(groups) == 1 and len(groups[0]["params"]) == len(before):
        return before, after
    raise StageError(
        f"an optimizer of {sum(len(group['params']) for group in groups)} parameters in {len(groups)} groups does not "
        f"say which of the {len(before)} parameters of the model they are",
        hint="give it names: SGD(module.named_parameters(), ...), in groups {'params': [(name, parameter), ...]}",
    )
