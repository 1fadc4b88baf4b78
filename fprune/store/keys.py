"""Keys: digests of whatever a stage reads, equal in every process exactly when what is read is the same."""

import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, EllipsisType, FunctionType, MethodType, ModuleType
from typing import Any, cast, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from fprune.equality import named_modules, named_tensors, settings
from fprune.errors import ConfigTypeError
from fprune.hashing import digest
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.report import Report
from fprune.store.code import closure_of, code_of, defaults_of, globals_of, installed, members_of, named
from fprune.store.digests import Digests
from fprune.store.keyed import Keyed, key_of
from fprune.tree import Flat

__all__ = ["Look", "key"]


def key(value: object, where: str, digests: Digests | None = None) -> str:
    """The key of a value: a digest of what it is, for functions of what they do and read.

    Functions and classes of installed packages are known by name and version, others by their code, their defaults,
    and the values they read from around them; data by its bytes; `keyed` values by their keys.

    Examples:
        >>> one, two = key({"lr": 0.1, "steps": 5}, "x"), key({"steps": 5, "lr": 0.1}, "x")
        >>> one == two, key(lambda x: 2 * x, "x") == key(lambda x: 3 * x, "x")
        (True, False)
        >>> key(object(), "finetune(train): rate")
        Traceback (most recent call last):
        ...
        fprune.errors.ConfigTypeError: finetune(train): rate: a cache cannot tell one object from another
        hint: give it a key, which changes when its content does: fprune.keyed(value, "rate-v1")

    Args:
        value: anything a stage is given.
        where: what it is, for errors.
        digests: what is known of tensors already.

    Returns:
        32 hexadecimal digits.

    Raises:
        ConfigTypeError: something in it has no content that could be hashed, such as a DataLoader.
    """
    return digest(Look(where, Digests() if digests is None else digests).at(value))


@final
@attrs.frozen(eq=False)
class Look:
    """What describes values as trees of texts and numbers.

    Args:
        where: the way to the value, for errors.
        digests: what is known of tensors.
        lenient: what has no content is told by its type, as in the attributes of a module.
        within: the functions, classes and modules that are being described, which may refer to each other.
    """

    where: str
    digests: Digests
    lenient: bool = False
    within: tuple[int, ...] = ()

    def at(self, value: Any) -> Any:
        """Describe a value."""
        if (often := _OFTEN.get(value.__class__)) is not None:
            return often(self, value)
        if (fields := _fields(value)) is not None:
            return "record", self.inside(value).at(type(value)), [(f, self.of(f, getattr(value, f))) for f in fields]
        for kinds, describe in _KINDS:
            if isinstance(value, kinds):
                return describe(self, value)
        if (by_name := named(value)) is not None:
            return "named", by_name
        if hasattr(value, "__objclass__"):  # a method of a class of C, such as str.upper
            return "method", self.at(value.__objclass__), value.__name__
        if hasattr(value, "__wrapped__"):
            return "wrapper", self.at(type(value)), self.at(value.__wrapped__)
        if self.lenient:
            return "object", f"{type(value).__module__}.{type(value).__qualname__}"
        raise self._refused(value)

    def of(self, part: str, value: Any) -> Any:
        """Describe a part of a value."""
        return attrs.evolve(self, where=f"{self.where}{'' if part.startswith('[') else '.'}{part}").at(value)

    def read(self, fn: Any, name: str, value: Any) -> Any:
        """Describe what a function or a class reads from around it."""
        return attrs.evolve(self, where=f"{self.where}: {fn.__qualname__} reads {name!r}").at(value)

    def inside(self, value: Any) -> "Look":
        """The same, below a value that may be met again there."""
        return attrs.evolve(self, within=(*self.within, id(value)))

    def _refused(self, value: object) -> ConfigTypeError:
        name = re.findall(r"\w+", self.where)[-1] if re.search(r"\w", self.where) else "data"
        return ConfigTypeError(
            f"{self.where}: a cache cannot tell one {type(value).__name__} from another",
            hint=f'give it a key, which changes when its content does: fprune.keyed(value, "{name}-v1")',
        )


def _fields(value: Any) -> list[str] | None:
    kind = cast(Any, type(value))
    if isinstance(value, nn.Module | enum.Enum):
        return None
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind) if field.eq]
    if hasattr(kind, "__dataclass_fields__"):
        return [name for name, field in kind.__dataclass_fields__.items() if field.compare]
    return None


def _plain(look: Look, value: Any) -> Any:
    del look
    return type(value).__name__, value


def _written(look: Look, value: Any) -> Any:
    del look
    return f"{type(value).__module__}.{type(value).__qualname__}", repr(value)


def _keyed(look: Look, value: Keyed) -> Any:
    del look
    return "keyed", key_of(value)


def _flat(look: Look, value: Flat[Any] | Masks) -> Any:
    """Tensors by name in one text, since there are many of them in every key."""
    if not all(type(item) is Tensor for item in value.values()):
        return "flat", [(name, look.of(f"[{name!r}]", item)) for name, item in value.items()]
    rows = [f"{name!r} {item.device.type} {look.digests.tensor(item)}" for name, item in value.items()]
    return "tensors", "\n".join(rows)


def _remembered(look: Look, value: Any) -> Any:
    """A record of many small parts that comes again and again."""
    fields = [field.name for field in attrs.fields(cast("Any", type(value))) if field.eq]
    return look.digests.of(value, lambda record: digest([look.of(field, getattr(record, field)) for field in fields]))


def _tensor(look: Look, value: Tensor) -> Any:
    return "tensor", value.device.type, value.requires_grad, look.digests.tensor(value)


def _array(look: Look, value: Any) -> Any:
    if value.dtype == object:
        return "array", value.shape, look.at(value.ravel().tolist())
    return "array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()


def _mapping(look: Look, value: Mapping[Any, Any]) -> Any:
    items = [(look.at(name), look.of(f"[{name!r}]", item)) for name, item in value.items()]
    return "mapping", _kind_of(look, value), sorted(items, key=lambda item: repr(item[0]))


def _sequence(look: Look, value: Any) -> Any:
    return "sequence", _kind_of(look, value), [look.of(f"[{i}]", item) for i, item in enumerate(value)]


def _set(look: Look, value: Any) -> Any:
    return "set", sorted(digest(look.at(item)) for item in value)


def _kind_of(look: Look, value: Any) -> Any:
    """Which class of containers; the order of those that have one is that of their items."""
    kind = cast(Any, type(value))
    return kind.__name__ if kind in (dict, list, tuple) else look.at(kind)


def _partial(look: Look, value: Any) -> Any:
    return "partial", look.at(value.func), look.at(value.args), look.at(value.keywords)


def _method(look: Look, value: MethodType) -> Any:
    return "method", look.at(value.__func__), look.at(value.__self__)


def _builtin(look: Look, value: BuiltinFunctionType) -> Any:
    if (by_name := named(value)) is not None:
        return "named", by_name
    return "method", value.__name__, look.at(value.__self__)  # such as [].append


def _function(look: Look, value: FunctionType) -> Any:
    if (by_name := named(value)) is not None:
        return "named", by_name
    name = (value.__module__, value.__qualname__)
    if id(value) in look.within:
        return "again", name
    below = look.inside(value)
    around = list(closure_of(value))
    if not installed(value.__module__ or ""):  # the code of a package is known by its version
        around += globals_of(value)
    reads = [(name, below.read(value, name, item)) for name, item in around]
    return "function", name, code_of(value.__code__), below.at(defaults_of(value)), reads


def _class(look: Look, value: type) -> Any:
    if (by_name := named(value)) is not None:
        return "named", by_name
    name = (value.__module__, value.__qualname__)
    if id(value) in look.within:
        return "again", name
    below = attrs.evolve(look.inside(value), lenient=True)
    members = [(name, below.read(value, name, item)) for name, item in members_of(value)]
    return "class", name, [below.at(base) for base in value.__bases__], members


def _imported(look: Look, value: ModuleType) -> Any:
    """A module that is read by its name: the user's own by all that it defines."""
    if (by_name := named(value)) is not None:
        return "named", by_name
    if id(value) in look.within:
        return "again", value.__name__
    below = attrs.evolve(look.inside(value), lenient=True)
    own = [(name, item) for name, item in sorted(vars(value).items()) if not name.startswith("__")]
    return "module", value.__name__, [(name, below.of(name, item)) for name, item in own]


def _network(look: Look, value: nn.Module) -> Any:
    if id(value) in look.within:
        return "again", type(value).__qualname__
    tensors = [(name, look.at(tensor)) for name, tensor in named_tensors(value).items() if not tensor.is_meta]
    form = functools.partial(_form, look)
    # A skeleton, all on the meta device, never changes; a module of the user's may.
    return "network", form(value) if tensors else look.digests.of(value, form), tensors


def _form(look: Look, value: nn.Module) -> str:
    """The digest of a module without its data: classes, settings, flags, hooks, shapes and ties."""
    below = attrs.evolve(look.inside(value), lenient=True)
    first: dict[int, str] = {}
    modules = [
        (name, first.setdefault(id(module), name), below.at(type(module)), _settings(below, module))
        for name, module in named_modules(value)
    ]
    twins = [
        (name, first.setdefault(id(tensor), name), str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad)
        for name, tensor in named_tensors(value).items()
    ]
    return digest((modules, twins))


def _settings(look: Look, module: nn.Module) -> Any:
    return [(name, look.at(item)) for name, item in sorted(settings(module).items())]


_OFTEN: Mapping[type, Callable[[Look, Any], Any]] = {
    Flat: _flat,
    Masks: _flat,
    Lineage: _remembered,
    Report: _remembered,
}
_KINDS: tuple[tuple[Any, Callable[[Look, Any], Any]], ...] = (
    (Keyed, _keyed),
    ((torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size), _written),
    ((enum.Enum, np.generic, np.dtype, range, slice, EllipsisType, re.Pattern), _written),
    ((pathlib.PurePath, decimal.Decimal, fractions.Fraction), _written),
    ((datetime.date, datetime.time, datetime.timedelta), _written),
    ((bool, int, float, complex, str, bytes, type(None)), _plain),
    (Tensor, _tensor),
    (np.ndarray, _array),
    (nn.Module, _network),
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (functools.partial, _partial),
    (MethodType, _method),
    (BuiltinFunctionType, _builtin),
    (FunctionType, _function),
    (type, _class),
    (ModuleType, _imported),
)
