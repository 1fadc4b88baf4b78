"""What a function or a class is, told by what it does: its code, and the names it reads from elsewhere.

Code is told by what Python compiled, not by the text of a file: a comment changes nothing, and a file that was edited
after it was imported does not speak for the function that runs.
"""

import builtins
import dis
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, cast

__all__ = ["closure_of", "code_of", "defaults_of", "globals_of", "installed", "members_of", "named", "package_digest"]

_BY_NAME = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_OURS = __name__.partition(".")[0]


def code_of(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, as texts, numbers and tuples; the functions inside it included.

    Examples:
        >>> def one(x):
        ...     return x + 1  # a comment
        >>> def two(x):
        ...     return x + 1
        >>> def three(x):
        ...     return x + 2
        >>> code_of(one.__code__) == code_of(two.__code__), code_of(one.__code__) == code_of(three.__code__)
        (True, False)

    Args:
        code: of a function; where it stands in which file does not matter.
    """
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_code, code.co_exceptiontable, counts, names, tuple(map(_constant, code.co_consts)))


def _constant(value: object) -> Any:
    if isinstance(value, CodeType):
        return code_of(value)
    if isinstance(value, tuple):
        return tuple(map(_constant, cast("tuple[object, ...]", value)))
    if isinstance(value, frozenset):  # its order differs from process to process
        return "frozenset", tuple(sorted(map(repr, cast("frozenset[object]", value))))
    return type(value).__name__, repr(value)


def globals_of(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    """The global names that a function reads, those of functions written inside it included, with their values.

    Examples:
        >>> [name for name, _ in globals_of(lambda: [Path(x) for x in sys.path])]
        ['Path', 'sys']
    """
    for name in sorted(_reads(fn.__code__)):
        if name in fn.__globals__:
            yield name, fn.__globals__[name]
        elif name in vars(builtins):
            yield name, vars(builtins)[name]


@functools.cache
def _reads(code: CodeType) -> frozenset[str]:
    own = {str(step.argval) for step in dis.get_instructions(code) if step.opname in _BY_NAME}
    return frozenset(own).union(*(_reads(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def closure_of(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    """The names of enclosing functions that a function reads, with their values; those without one yet are left out."""
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # assigned later than the function was made, and not yet
            continue
        yield name, value


def defaults_of(fn: FunctionType) -> tuple[Any, Any]:
    """Defaults of positional and of keyword arguments."""
    return fn.__defaults__ or (), fn.__kwdefaults__ or {}


def members_of(kind: type) -> Iterator[tuple[str, Any]]:
    """What the body of a class defines, methods bare; without what Python adds to every class."""
    for name, value in sorted(vars(kind).items()):
        if name in _ADDED:
            continue
        if isinstance(value, property):
            yield name, (value.fget, value.fset, value.fdel)
        else:
            bare: Any = cast("Any", value).__func__ if isinstance(value, staticmethod | classmethod) else value
            yield name, bare


_ADDED = frozenset(
    {
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__classcell__",
        "__conditional_annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__static_attributes__",
        "__weakref__",
        "__abstractmethods__",
        "_abc_impl",
    }
)


def named(value: Any) -> tuple[str, str, str] | None:
    """Name, and version where there is one, of what an installed package or Python itself defines; else None.

    What was made by calling a function, such as a lambda or a class inside a function, has no name of its own.

    Examples:
        >>> named(len)
        ('builtins', 'len', '')
        >>> named(Path)[:2], named(lambda: None)
        (('pathlib', 'Path'), None)
    """
    if isinstance(value, ModuleType):
        return ("module", value.__name__, _version(value.__name__)) if installed(value.__name__) else None
    if isinstance(value, BuiltinFunctionType):
        owner = value.__self__  # the module, or what a method is bound to
        if owner is not None and not isinstance(owner, ModuleType | type):
            return None
        return value.__module__ or "builtins", value.__qualname__, _version(value.__module__ or "builtins")
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not installed(module):
        return None
    return (module, name, _version(module)) if _found(module, name) is value else None


def _found(module: str, name: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return getattr(value, "fn", value) if type(value).__name__ == "Factory" else value


@functools.cache
def installed(module: str) -> bool:
    """Whether a module is part of Python, of this library or of an installed package, and not the user's own.

    Examples:
        >>> installed("torch.nn"), installed("json"), installed("__main__")
        (True, True, False)
    """
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names or top == _OURS:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    return file is not None and any(Path(file).is_relative_to(place) for place in _places())


@functools.cache
def _places() -> tuple[Path, ...]:
    paths: Mapping[str, str] = sysconfig.get_paths()
    found = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib") if name in paths]
    return tuple({place for path in found for place in (path, path.resolve())})


def _version(module: str) -> str:
    top = module.partition(".")[0]
    return "" if top == _OURS else str(getattr(sys.modules.get(top), "__version__", ""))


@functools.cache
def package_digest() -> str:
    """The digest of this library's own source: a stage of another version may give something else."""
    root = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
