"""How records become trees for optree: some fields hold tensors, the others are carried along."""

from typing import Any, cast, final

import attrs
import optree
from torch import Tensor

from fprune.inputs import Inputs
from fprune.tree import NAMESPACE, Flat, same

__all__ = ["register", "register_inputs"]


@final
@attrs.frozen(eq=False)
class _Static:
    """What is not a tensor: equal by value, and hashable because optree asks for it."""

    compared: tuple[Any, ...]
    carried: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and same(self.compared, other.compared)

    def __hash__(self) -> int:
        return len(self.compared)


def register(cls: type[Any], *children: str) -> None:
    """Tell optree which fields hold tensors; the others are carried along."""
    static = [field for field in attrs.fields(cls) if field.name not in children]
    compared = [field.name for field in static if field.eq]
    carried = [field.name for field in static if not field.eq]

    def flatten(record: Any) -> tuple[Any, Any, Any]:
        values = [tuple(getattr(record, name) for name in names) for names in (children, compared, carried)]
        return values[0], _Static(values[1], values[2]), children

    def unflatten(fixed: Any, values: Any) -> Any:
        # As unpickling does: converters and validators would refuse trees of other leaves, such as shapes.
        parts = ((children, values), (compared, fixed.compared), (carried, fixed.carried))
        record = object.__new__(cls)
        record.__setstate__({name: value for names, group in parts for name, value in zip(names, group, strict=True)})
        return record

    optree.register_pytree_node(cls, flatten, unflatten, namespace=NAMESPACE)


def register_inputs() -> None:
    """Register `Inputs`: only its tensors are leaves, however deep they sit; flags and numbers are carried along."""
    optree.register_pytree_node(cast(Any, Inputs), _flatten_inputs, _unflatten_inputs, namespace=NAMESPACE)


def _flatten_inputs(record: Any) -> tuple[Any, Any]:
    arguments: Any = (record.args, dict(record.kwargs))
    flat: tuple[Any, Any] = optree.tree_flatten(arguments, namespace=NAMESPACE)
    tensors = tuple(leaf for leaf in flat[0] if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in flat[0])
    return tensors, _Static((others, record.outputs), (flat[1],))


def _unflatten_inputs(fixed: Any, values: Any) -> Any:
    tensors = iter(values)
    leaves = [next(tensors) if other is None else other[0] for other in fixed.compared[0]]
    arguments: Any = optree.tree_unflatten(fixed.carried[0], leaves)
    return Inputs(arguments[0], Flat(arguments[1]), outputs=fixed.compared[1])
