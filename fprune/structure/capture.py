"""Record a forward pass: the one file that touches torch's internals.

Under `inference_mode` composite operators reach a dispatch mode whole (`linear`, `conv2d`, `layer_norm`), with their
schema, before anything decomposes them. The model runs on the meta device, so a recording costs neither memory nor
arithmetic: some 40 ms for a ResNet-18. A model that cannot run without data is run once on the example inputs.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # the same flattening as torch.export: knows the outputs of model libraries
from torch.utils._python_dispatch import TorchDispatchMode

from fprune.errors import FpruneError, ModelError, StructureError
from fprune.inputs import Inputs
from fprune.structure.graph import Graph, Node, Ref, refs
from fprune.structure.provenance import Watch, trace_attributes

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_READS_DATA = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique_dim", "_unique2"}

POINTWISE = frozenset(
    """contiguous clone to _to_copy detach alias dropout feature_dropout alpha_dropout lift_fresh lift_fresh_copy zeros_like
    ones_like full_like empty_like type_as copy relu relu6 silu gelu mish hardswish hardsigmoid hardtanh leaky_relu elu selu
    celu softplus rrelu float_power where masked_fill lerp addcmul addcdiv fill zero logical_and logical_or logical_not isin
    clamp square softshrink hardshrink log_sigmoid true_divide multiply subtract divide""".split()
)
"""Operators that act element by element but do not carry torch's tag for it."""


class NeedsData(Exception):
    """The meta device cannot run this model; carries the reason."""


def is_pointwise(node: Node) -> bool:
    """Whether a call acts element by element, under broadcasting: by torch's tag, else by name."""
    tags = getattr(node.op, "tags", ())
    return torch.Tag.pointwise in tags or node.name in POINTWISE


def is_inplace(op: Callable[..., Any]) -> bool:
    """Whether the operator writes its first argument."""
    return isinstance(op, torch._ops.OpOverload) and op._schema.name.endswith("_") and op._schema.is_mutable


def functional(op: Callable[..., Any]) -> Callable[..., Any]:
    """The out-of-place form of an in-place operator; any other operator as it is."""
    if not (isinstance(op, torch._ops.OpOverload) and is_inplace(op)):
        return op
    packet = getattr(torch.ops.aten, op._schema.name.split("::")[1].removesuffix("_"), None)
    return getattr(packet, op._overloadname, op) if packet is not None else op


def bind(op: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by their name in the operator's schema, defaults filled in."""
    if not isinstance(op, torch._ops.OpOverload):
        return dict(enumerate(args), **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType]
    out: dict[str, Any] = {}
    for i, argument in enumerate(op._schema.arguments):
        if i < len(args):
            out[argument.name] = args[i]
        elif argument.name in kwargs:
            out[argument.name] = kwargs[argument.name]
        else:
            out[argument.name] = argument.default_value if argument.has_default_value() else None
    return out


def aten(name: str, overload: str = "default") -> Callable[..., Any]:
    """An ATen operator by name."""
    return getattr(getattr(torch.ops.aten, name), overload)


def overwritten(value: Tensor, written: Tensor) -> Tensor:
    """Stands for `value` after `written`, which shares its memory, was changed in place: the same tensor, read anew."""
    del written
    return value


def leaves(output: Any) -> list[Tensor]:
    """The tensors of whatever a forward pass returned, in order."""
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


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
        self._nodes: list[Node] = []
        self._shapes: list[tuple[int, ...]] = []
        self._numbers: dict[int, int] = {}  # id(tensor) -> value
        self._alive: list[Any] = []  # keeps ids unique while recording
        self._sharing: dict[int, dict[int, Tensor]] = {}  # storage -> tensors over it
        self._constants: dict[int, Tensor] = {}
        self._modules: list[str] = []
        self._from_input: set[int] = set()
        self._watch = Watch()
        self._tensors: dict[int, str] = {}

    def run(self, net: nn.Module, inputs: Inputs, device: torch.device) -> Graph:
        """Run a private module once and keep what it did."""
        trace_attributes(net)
        paths = {id(module): path for path, module in reversed(list(net.named_modules(remove_duplicate=False)))}
        named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
        for name, tensor in sorted(named, key=lambda item: item[0]):
            if id(tensor) not in self._numbers:
                self._tensors[self._number(tensor)] = name
        flat, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
        flat = [torch.empty_like(x, device=device) if _meta(x, device) else x for x in flat]
        given = [self._number(x) for x in flat if isinstance(x, Tensor)]
        self._from_input.update(given)
        arguments = pytree.tree_unflatten([self._ref(x) for x in flat], spec)
        args, kwargs = pytree.tree_unflatten(flat, spec)
        if device.type != "meta":
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: self._same(x, x.clone()), (args, kwargs))
        enter = nn.modules.module.register_module_forward_pre_hook(lambda m, _: self._modules.append(paths.get(id(m), "")))
        leave = nn.modules.module.register_module_forward_hook(self._left, always_call=True)
        try:
            with torch.inference_mode(), torch.device(device), self._watch, self:
                returned = net(*args, **kwargs)
        except FpruneError:
            raise
        except Exception as error:
            if device.type == "meta":
                raise NeedsData(str(error)) from error
            where = f"in {self._modules[-1]!r}" if self._modules and self._modules[-1] else "in the root module"
            shapes = [tuple(x.shape) for x in flat if isinstance(x, Tensor)]
            raise ModelError(
                f"the forward pass fails {where} on example inputs of shapes {shapes}: {type(error).__name__}: {error}",
                hint="pass example_inputs that the model accepts: a tuple of positional arguments or a dict",
            ) from error
        finally:
            enter.remove()
            leave.remove()
        leaves, out_spec = pytree.tree_flatten(returned)
        outputs = [self._numbers[id(x)] for x in leaves if isinstance(x, Tensor) and id(x) in self._numbers]
        hidden = [type(x).__name__ for x in leaves if not isinstance(x, (Tensor, str, int, float, bool, complex, type(None)))]
        if hidden or not outputs:
            raise StructureError(
                f"the forward pass returns {hidden[0] if hidden else 'no tensor'}, in which no output can be found",
                hint="return tensors in tuples, lists, dicts or classes registered with torch's pytree",
            )
        returns = pytree.tree_unflatten([self._ref(x) for x in leaves], out_spec)
        return self._graph(tuple(given), tuple(outputs), returns, arguments)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note one call and let it happen."""
        del types
        kwargs = kwargs or {}
        name: str = func._schema.name.split("::")[1]
        read = tuple(refs((ref_args := self._refs(args), ref_kwargs := self._refs(kwargs))))
        depends = any(index in self._from_input for index in read)
        if name in _READS_DATA:
            if depends:
                raise ModelError(
                    f"{_site()} reads values computed from the inputs ({name}): the structure of the model depends on its data",
                    hint="prune without dependency_aware and speed_up, or trace the sub-module that has no such branch",
                )
            if any(isinstance(x, Tensor) and x.is_meta for x in args):
                raise NeedsData(f"{name} on the meta device")
        out = func(*args, **kwargs)
        tensors: list[Any] = [out] if isinstance(out, Tensor) else list(out) if isinstance(out, (tuple, list)) else []
        if not tensors or not all(isinstance(x, Tensor) for x in tensors):
            if tensors and any(isinstance(x, Tensor) for x in tensors):
                raise StructureError(f"{name} at {_site()} returns a mixture of tensors and other values")
            return out
        inplace = is_inplace(func)
        site, module = _site(), self._modules[-1] if self._modules else ""
        outs = tuple(self._number(x, rebind=True) for x in tensors)
        if depends:
            self._from_input.update(outs)
        plain = name.removesuffix("_") if inplace or not name.startswith("_") else name
        bound = bind(func, ref_args, ref_kwargs)
        sources = _sourced(bound, self._watch.sources)
        single = isinstance(out, Tensor)
        self._nodes.append(Node(func, plain, ref_args, ref_kwargs, bound, outs, single, module, site, sources=sources))
        if inplace:
            self._overwrite(tensors[0], site, module)
        return out

    def _left(self, *_: Any) -> None:
        self._modules.pop()

    def _overwrite(self, written: Tensor, site: str, module: str) -> None:
        """Every other tensor over the same memory has changed too: give it a new number."""
        number = self._numbers[id(written)]
        for other in list(self._sharing.get(_storage(written), {}).values()):
            if other is not written:
                args = (Ref(self._numbers[id(other)]), Ref(number))
                fresh = self._number(other, rebind=True)
                bound = {"value": args[0], "written": args[1]}
                self._nodes.append(Node(overwritten, "overwritten", args, {}, bound, (fresh,), True, module, site))
                if number in self._from_input:
                    self._from_input.add(fresh)

    def _number(self, tensor: Tensor, *, rebind: bool = False) -> int:
        if not rebind and id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        number = len(self._shapes)
        self._shapes.append(tuple(tensor.shape))
        self._same(tensor, tensor, number)
        return number

    def _same(self, tensor: Tensor, twin: Tensor, number: int | None = None) -> Tensor:
        """Let `twin` stand for `tensor`."""
        self._numbers[id(twin)] = self._numbers[id(tensor)] if number is None else number
        self._alive.append(twin)
        self._sharing.setdefault(_storage(twin), {})[id(twin)] = twin
        return twin

    def _ref(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._numbers:  # a tensor the model keeps outside parameters and buffers
            if value.is_meta and value.numel():
                raise NeedsData("a constant made on the meta device has no values")
            self._constants[self._number(value)] = value
        return Ref(self._numbers[id(value)])

    def _refs(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return self._ref(tree)
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._refs(item) for item in tree)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(tree, dict):
            return {key: self._refs(item) for key, item in tree.items()}  # pyright: ignore[reportUnknownVariableType]
        return tree

    def _graph(self, inputs: tuple[int, ...], outputs: tuple[int, ...], returns: Any, arguments: Any) -> Graph:
        needed = set(outputs)
        nodes: list[Node] = []
        for node in reversed(self._nodes):
            if needed.intersection(node.outs):
                nodes.append(node)
                needed.update(node.inputs)
        return Graph(
            tuple(reversed(nodes)),
            tuple(self._shapes),
            inputs,
            {number: name for number, name in self._tensors.items() if number in needed},
            {number: tensor for number, tensor in self._constants.items() if number in needed},
            outputs,
            returns,
            arguments,
        )


def _sourced(bound: Mapping[str, Any], sources: Mapping[int, Any]) -> dict[str, tuple[Any, ...]]:
    """For each size argument, the expression behind each of its entries, or None."""
    if not sources:
        return {}
    out: dict[str, tuple[Any, ...]] = {}
    for name, value in bound.items():
        sizes: list[Any] = value if isinstance(value, list) else [value]
        found = tuple(sources.get(n) if type(n) is int else None for n in sizes)
        if any(expression is not None for expression in found):
            out[name] = found
    return out


def _meta(value: Any, device: torch.device) -> bool:
    return isinstance(value, Tensor) and device.type == "meta"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _site() -> str:
    """`file:line` of the nearest frame outside torch and this package."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"

