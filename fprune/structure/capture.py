"""Record a forward pass: with `operators`, the one file that touches torch's internals.

Under `inference_mode` composite operators reach a dispatch mode whole (`linear`, `conv2d`, `layer_norm`), with their
schema, before anything decomposes them. The model runs on the meta device, so a recording costs neither memory nor
arithmetic: some 40 ms for a ResNet-18. A model that cannot run without data is run once on the example inputs.
"""

import inspect
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # the same flattening as torch.export: knows the outputs of model libraries
from torch.utils._python_dispatch import TorchDispatchMode

from fprune.equality import named_modules, named_tensors
from fprune.errors import FpruneError, ModelError, StructureError
from fprune.inputs import Inputs
from fprune.structure.arguments import listed
from fprune.structure.expressions import Attribute, sizes_in
from fprune.structure.graph import Call, Graph, Node, Read, Ref, refs
from fprune.structure.numbering import NeedsData, Numbering
from fprune.structure.operators import bind, is_inplace, overwritten
from fprune.structure.outputs import positions
from fprune.structure.overlap import overlap
from fprune.structure.provenance import Given, Watch, sources, trace_attributes
from fprune.structure.shapes import SHAPES

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parents[1])
BRANCHES = frozenset({"is_nonzero", "equal", "allclose"})
"""Operators that give a bool, of which code makes a choice."""
_SELECTS = frozenset(
    "nonzero nonzero_numpy argwhere masked_select _unique2 unique_dim unique_consecutive bincount".split()
)
_SIZED = frozenset(
    "view reshape _unsafe_view unflatten expand broadcast_to zeros ones full empty new_zeros new_ones new_full".split()
)
_ITEMS = frozenset({"_local_scalar_dense", "item"})
_READS_DATA = frozenset({*_ITEMS, *BRANCHES, *_SELECTS})


def tensors_mapped(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Arguments with each tensor replaced."""
    return pytree.tree_map_only(Tensor, fn, tree)


def cloned(tree: Any) -> Any:
    """Arguments with private copies of their tensors."""
    return tensors_mapped(torch.clone, tree)


class Recording(TorchDispatchMode):
    """What one forward pass leaves behind."""

    def __init__(self) -> None:
        """Nothing recorded yet."""
        super().__init__()
        self.values = Numbering()
        self._calls: list[Call] = []
        self._running: list[int] = []  # numbers of calls, the innermost last
        self._reads: dict[Read, None] = {}
        self._attributes: dict[Attribute, int] = {}
        self._from_input: set[int] = set()
        self.nodes: list[Node] = []
        self._unseen: list[Node] = []  # calls with sizes computed out of sight, in functions of torch in Python
        self._dynamic: set[int] = set()  # values whose size depends on the inputs
        self._watch = Watch(self._measured)
        self._tensors: dict[int, str] = {}

    @property
    def hidden(self) -> bool:
        """Whether sizes were computed out of sight, in functions of torch written in Python."""
        return bool(self._unseen) or self._watch.counts

    def run(self, net: nn.Module, original: nn.Module, inputs: Inputs, device: torch.device) -> Graph:
        """Run a private module once and keep what it did.

        Args:
            net: the module.
            original: what it was copied from.
            inputs: what to run it on.
            device: where; on the meta device the model may not read any values.
        """
        self._attributes.update(trace_attributes(net, original))
        paths = {id(module): path for path, module in reversed(named_modules(net))}
        for name, tensor in sorted(named_tensors(net).items(), key=lambda item: item[0]):
            if self.values.find(tensor) is None:
                self._tensors[self.values.number(tensor)] = name
        flat, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
        flat = [torch.empty_like(x, device=device) if _meta(x, device) else x for x in flat]
        given = [self.values.number(x) for x in flat if isinstance(x, Tensor)]
        self._from_input.update(given)
        arguments = pytree.tree_unflatten([self.values.ref(x) for x in flat], spec)
        args, kwargs = pytree.tree_unflatten(flat, spec)
        if device.type != "meta":
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: self.values.same(x, x.clone()), (args, kwargs))
        try:
            with self._followed(net, paths), torch.inference_mode(), torch.device(device), self._watch, self:
                returned = net(*args, **kwargs)
        except FpruneError:
            raise
        except Exception as error:
            if device.type == "meta":
                raise NeedsData(str(error)) from error
            owners = [id(frame.f_locals.get("self")) for frame, _ in walk_tb(error.__traceback__)]
            path = next((paths[owner] for owner in reversed(owners) if owner in paths), "")
            where = f"in {path!r}, {_in_brief(net.get_submodule(path))}," if path else "in the root module"
            shapes = [tuple(x.shape) for x in flat if isinstance(x, Tensor)]
            raise ModelError(
                f"the forward pass fails {where} on example inputs of shapes {shapes}: {type(error).__name__}: {error}",
                hint="pass example_inputs that the model accepts: a tuple of positional arguments or a dict",
            ) from error
        leaves, out_spec = pytree.tree_flatten(returned)
        refs = [self.values.ref(x) for x in leaves]
        outputs = [x.index for x in refs if isinstance(x, Ref)]
        hidden = [
            type(x).__name__ for x in leaves if not isinstance(x, (Tensor, str, int, float, bool, complex, type(None)))
        ]
        if hidden or not outputs:
            raise StructureError(
                f"the forward pass returns {hidden[0] if hidden else 'no tensor'}, in which no output can be found",
                hint="return tensors in tuples, lists, dicts or classes registered with torch's pytree",
            )
        returns = pytree.tree_unflatten(refs, out_spec)
        preserved = None if inputs.outputs is None else positions(inputs.outputs, returned)
        return self._graph(tuple(given), tuple(outputs), returns, arguments, preserved)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note one call and let it happen."""
        del types
        kwargs = kwargs or {}
        name: str = func._schema.name.split("::")[1]
        read = tuple(refs((ref_args := self.values.refs(args), ref_kwargs := self.values.refs(kwargs))))
        depends = any(index in self._from_input for index in read)
        picked = name == "index" and self._picks(args[1])
        if name in _READS_DATA or picked:
            if any(isinstance(x, Tensor) and x.is_meta for x in args):
                raise NeedsData(f"{name} on the meta device")
            if depends:
                self._read(name, number=name not in BRANCHES and name not in _SELECTS and not picked)
        if name in SHAPES and args[0].is_meta and kwargs.get("dtype") is None:
            out = args[0].new_empty(SHAPES[name](tuple(args[0].shape), bind(func, args, kwargs)))
        elif is_inplace(func) and args[0].is_meta and torch.Tag.pointwise in func.tags:
            out = args[0]  # nothing to compute, and its shape stays
        else:
            out = func(*args, **kwargs)
        tensors = listed(out)
        if not tensors or not all(isinstance(x, Tensor) for x in tensors):
            if any(isinstance(x, Tensor) for x in tensors):
                raise StructureError(f"{name} at {site()} returns a mixture of tensors and other values")
            return out
        inplace = is_inplace(func)
        here, call = site(), self._running[-1]
        outs = tuple(self.values.number(x, rebind=True) for x in tensors)
        if depends:
            self._from_input.update(outs)
        if (depends and (name in _SELECTS or picked)) or any(index in self._dynamic for index in read):
            self._dynamic.update(outs)
        plain = name.removesuffix("_") if inplace or not name.startswith("_") else name
        bound = bind(func, ref_args, ref_kwargs)
        sourced = _sourced(bound, self._watch.given)
        single, path = isinstance(out, Tensor), self._calls[call].path
        node = Node(func, plain, ref_args, ref_kwargs, bound, outs, single, path, here, sourced, call)
        self.nodes.append(node)
        if self._watch.hides and plain in _SIZED:
            self._unseen.append(node)
        if inplace and torch.Tag.inplace_view not in func.tags:
            self._overwrite(tensors[0], ref_args[0], node)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would wrap `__torch_dispatch__` to keep its compiler out, and import the compiler (1.5 s) to do so."""
        return False

    def _measured(self, tensor: Tensor) -> int | None:
        """The number of a tensor whose size is asked for; a size that depends on the inputs is a number read."""
        number = self.values.find(tensor)
        if number in self._dynamic:
            self._read("size", number=True)
        return number

    def _read(self, operator: str, *, number: bool) -> None:
        """Note a look at data; an index that torch itself looks up goes into the next call and no further."""
        now, inner = len(self.values.shapes), operator in _ITEMS and not self._watch.hands_over
        until = now + 1 if inner else math.inf
        self._reads[Read(operator, site(), self._running[-1], now, number, until)] = None

    def _picks(self, indices: Any) -> bool:
        """Whether a mask computed from the inputs says how many entries there are."""
        masks = [i for i in indices if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        return any(self.values.find(mask) in self._from_input for mask in masks)

    @contextmanager
    def _followed(self, net: nn.Module, paths: Mapping[int, str]) -> Generator[None]:
        """Note every module call of the private module; a module without a path of its own counts as its caller."""

        def entered(module: nn.Module, args: Any, kwargs: Any) -> None:
            parent = self._running[-1] if self._running else -1
            self._running.append(len(self._calls))
            self._calls.append(Call(paths[id(module)], parent, self._seen((args, kwargs)), None))

        def left(module: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
            number = self._running.pop()
            self._calls[number] = attrs.evolve(self._calls[number], returns=self._seen(returned))

        handles: list[Any] = []
        for module in net.modules():
            handles.append(module.register_forward_pre_hook(entered, with_kwargs=True))
            handles.append(module.register_forward_hook(left, with_kwargs=True, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _seen(self, tree: Any) -> Any:
        """Arguments with the tensors that have a number replaced by it."""
        return pytree.tree_map_only(Tensor, lambda x: Ref(n) if (n := self.values.find(x)) is not None else x, tree)

    def _overwrite(self, written: Tensor, before: Ref, by: Node) -> None:
        """Every other tensor over the same memory has changed too: give it a new number."""
        number = self.values.number(written)
        for other in self.values.sharing(written):
            meets = overlap(other, written)
            if other is written or (meets is not None and meets.apart):
                continue
            args: tuple[Any, ...] = (Ref(self.values.number(other)), before, Ref(number), meets)
            fresh = self.values.number(other, rebind=True)
            bound: dict[str, Any] = {"value": args[0], "before": before, "written": args[2], "overlap": meets}
            self.nodes.append(
                Node(overwritten, "overwritten", args, {}, bound, (fresh,), True, by.module, by.site, call=by.call)
            )
            if number in self._from_input:
                self._from_input.add(fresh)

    def _graph(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        returns: Any,
        arguments: Any,
        preserved: tuple[int, ...] | None,
    ) -> Graph:
        needed = set(outputs)
        nodes: list[Node] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outs):
                nodes.append(node)
                read = [e for entries in node.sources.values() for e in entries if e is not None]
                needed.update(node.inputs, *({size.value for size in sizes_in(e)} for e in read))
        return Graph(
            tuple(reversed(nodes)),
            tuple(self.values.shapes),
            inputs,
            {number: name for number, name in self._tensors.items() if number in needed},
            {number: tensor for number, tensor in self.values.constants.items() if number in needed},
            outputs,
            returns,
            arguments,
            preserved,
            frozenset(self.values.masks & needed),
            tuple(self._calls),
            tuple(self._reads),
            self._attributes,
        )


def _in_brief(module: nn.Module) -> str:
    """A module with what its sizes are, and without what is inside it."""
    return f"{type(module).__name__}({module.extra_repr()})"


def _sourced(bound: Mapping[str, Any], given: Given) -> dict[str, tuple[Any, ...]]:
    """For each size argument, the expression behind each of its entries, or None."""
    if not given:
        return {}
    found = {name: sources(listed(value), given) for name, value in bound.items() if type(value) in (int, list)}
    return {name: parts for name, parts in found.items() if any(part is not None for part in parts)}


def _meta(value: Any, device: torch.device) -> bool:
    return isinstance(value, Tensor) and device.type == "meta"


def site() -> str:
    """`file:line` of the nearest frame outside torch and this package."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"
