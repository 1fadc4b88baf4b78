"""Rules about the package's source that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.project.files import PACKAGE, parsed, report, where

CONSTRUCTION = {"__init__", "__attrs_post_init__", "__setstate__", "__new__"}


def may_rebuild(path: Path) -> bool:
    """The files that assemble private copies of modules, and may therefore write to what they have just made."""
    inside = path.relative_to(PACKAGE)
    return inside in (Path("model.py"), Path("store/form.py")) or (
        inside.parts[0] == "structure" and inside.name.startswith(("compact", "rebuild"))
    )


def written(node: ast.AST) -> Iterator[ast.expr]:
    """The targets that a statement or comprehension stores to, tuples taken apart."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            found = list(targets)
        case ast.AnnAssign(target=target, value=value):
            found = [target] if value is not None else []
        case ast.AugAssign(target=target) | ast.For(target=target) | ast.comprehension(target=target):
            found = [target]
        case ast.withitem(optional_vars=ast.expr() as target):
            found = [target]
        case _:
            found = []
    while found:
        target = found.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            found.extend(target.elts)
        elif isinstance(target, ast.Starred):
            found.append(target.value)
        else:
            yield target


def attribute_writes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Attribute writes outside construction: `x.y = ...`, `del x.y`, `setattr(x, ...)`, `vars(x)[...] = ...`."""

    def visit(node: ast.AST, own: str | None) -> Iterator[tuple[ast.AST, str]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.args.args[0].arg if node.args.args else None
            own = "self" if node.name == "__new__" else first if node.name in CONSTRUCTION else None
        for target in written(node):
            if isinstance(target, ast.Attribute) and not (
                isinstance(target.value, ast.Name) and target.value.id == own
            ):
                yield target, ast.unparse(target)
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).startswith(("vars(", "globals(")):
                yield target, ast.unparse(target)
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith(".__dict__"):
                yield target, ast.unparse(target)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"setattr", "delattr"} or name.endswith((".__setattr__", ".__delattr__")):
                on_self = bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id == own
                if not on_self:
                    yield node, ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, own)

    yield from visit(tree, None)


def test_no_attribute_assignment_outside_construction() -> None:
    problems = [
        f"{where(path, node)}: {text}"
        for path, tree in parsed()
        if not may_rebuild(path)
        for node, text in attribute_writes(tree)
    ]
    assert not problems, report(
        problems, "records do not change after construction; make a new one (attrs.evolve, .replace(...))"
    )


def test_the_attribute_check_sees_every_form() -> None:
    source = """
class A:
    def __init__(self, other):
        self.fine = 1
        other.bad = 1
    def __new__(cls):
        self = super().__new__(cls)
        self.fine = 1
        cls.bad = 1
    def later(self):
        self.bad += 1
        (a, self.bad), b = (1, 2), 3
        for self.bad in (): pass
        with open("x") as self.bad: pass
        del self.bad
        setattr(self, "bad", 1)
        object.__setattr__(self, "bad", 1)
        self.__dict__["bad"] = 1
        vars(self)["bad"] = 1
"""
    assert len(list(attribute_writes(ast.parse(source)))) == 11, "one of the eleven forbidden writes above went unseen"


def test_no_assert_on_user_input() -> None:
    problems = [where(path, node) for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not problems, report(problems, "`assert` vanishes under -O and says nothing; raise a child of FpruneError")


def test_nothing_from_a_file_is_executed() -> None:
    banned_modules = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy", "zipimport"}
    banned_calls = {"eval", "exec", "compile", "__import__", "import_module", "importlib.import_module"}
    banned_calls |= {"torch.load", "torch.jit.load", "torch.hub.load", "torch.export.load", "np.load", "numpy.load"}
    problems = []
    for path, tree in parsed():
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            problems += [f"{where(path, node)}: import {n}" for n in names if n.split(".")[0] in banned_modules]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in banned_calls:
                problems.append(f"{where(path, node)}: {ast.unparse(node.func)}")
    assert not problems, report(problems, "fprune never unpickles and never runs text; a checkpoint is data")


def test_no_import_inside_a_function_breaks_a_cycle() -> None:
    problems = []
    for path, tree in parsed():
        for function in ast.walk(tree):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for node in ast.walk(function):
                modules = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                problems += [f"{where(path, node)}: {m}" for m in modules if m.split(".")[0] == "fprune"]
    assert not problems, report(
        problems, "imports go down the layers; one inside a function hides an arrow that goes up"
    )


def test_private_torch_is_used_in_one_file_of_structure() -> None:
    places: dict[Path, list[str]] = {}
    for path, tree in parsed():
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.ImportFrom):
                text = node.module or ""
            elif isinstance(node, ast.Import):
                text = " ".join(alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute):
                text = ast.unparse(node)
            parts = text.split(".")
            if (
                parts[0] == "torch"
                and len(parts) > 1
                and any(p.startswith("_") and not p.startswith("__") for p in parts[1:2])
            ):
                places.setdefault(path, []).append(f"{where(path, node)}: {text}")
    outside = [line for path, lines in places.items() if path.parent.name != "structure" for line in lines]
    assert not outside, report(outside, "private parts of torch move between releases; keep them in fprune/structure")
    assert len(places) <= 1, report(
        [line for lines in places.values() for line in lines], "private parts of torch belong in one file"
    )
