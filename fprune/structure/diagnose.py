"""Find the modules whose code does not make the calls of the program: what equations over sizes cannot see.

A scale computed from a shape, a table made anew with fewer entries, a branch on a width: the model is recorded in its
own class, with its smaller tensors, and compared call by call with the program it should be.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fprune.equality import named_modules
from fprune.errors import ModelError
from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.arguments import entries
from fprune.structure.capture import Recording
from fprune.structure.graph import Graph, Node, Ref, within
from fprune.structure.numbering import NeedsData


def differing(model: Model, expected: Graph, inputs: Inputs, apart: Collection[str]) -> set[str]:
    """The modules whose own calls differ from the program's.

    Args:
        model: the model to look at.
        expected: the program it should be.
        inputs: example inputs.
        apart: modules to leave out, with everything inside them.

    Returns:
        Paths of modules; empty if every module makes the calls it should.
    """
    recording, whole = _recorded(model, inputs)
    made, modules = _by_module(recording.nodes), dict(named_modules(model.skeleton))
    found: set[str] = set()
    for path, nodes in _by_module(expected.nodes).items():
        if within(path, apart):
            continue
        if path in modules and type(modules[path]).__module__.startswith("fprune."):
            continue  # makes other calls to the same end
        rest = iter(made.get(path, []))
        for node in nodes:
            twin = next((other for other in rest if _same_kind(node, other)), None)
            if twin is None and not whole:
                break
            if twin is None or not _same(node, expected, twin, recording):
                found.add(path)
                break
    return found


def _recorded(model: Model, inputs: Inputs) -> tuple[Recording, bool]:
    """What the model does, as far as it comes."""
    attempts = ((copy.deepcopy(model.eval().skeleton), torch.device("meta")), (model.eval().to_module(), model.device))
    for net, device in attempts:
        recording = Recording()
        try:
            recording.run(net, model.skeleton, inputs, device)
        except NeedsData:
            continue
        except ModelError:
            return recording, False
        return recording, True
    raise AssertionError("a run on real data never asks for data")


def _by_module(nodes: Collection[Node]) -> Mapping[str, list[Node]]:
    out: dict[str, list[Node]] = {}
    for node in nodes:
        if node.name != "overwritten":
            out.setdefault(node.module, []).append(node)
    return out


_ALIKE = {"chunk": "split", "split_with_sizes": "split", "tensor_split": "split", "split": "split"}


def _same_kind(a: Node, b: Node) -> bool:
    return _ALIKE.get(a.name, a.name) == _ALIKE.get(b.name, b.name)


def _same(a: Node, graph: Graph, b: Node, recording: Recording) -> bool:
    """Whether two calls make values of the same shapes from the same numbers and constants."""
    if [graph.shapes[index] for index in a.outs] != [recording.values.shapes[index] for index in b.outs]:
        return False
    if a.name in _ALIKE:
        return True
    numbers = [list(_numbers(node)) for node in (a, b)]
    constants = [
        [held[index] for index in node.inputs if index in held]
        for node, held in ((a, graph.constants), (b, recording.values.constants))
    ]
    same = len(constants[0]) == len(constants[1]) and all(map(_equal, *constants))
    return numbers[0] == numbers[1] and same


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.is_meta or b.is_meta or torch.equal(a.cpu(), b.cpu()))


def _numbers(node: Node) -> Iterator[Any]:
    for name, value in node.bound.items():
        if name not in ("device", "dtype", "layout"):
            yield from (entry for entry in entries(value) if not isinstance(entry, (Ref, Tensor)))
