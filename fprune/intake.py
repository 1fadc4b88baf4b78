"""What `Model.from_module` accepts: wrappers that are looked through, and modules that are refused, with the reason."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod

from fprune.equality import named_modules, named_tensors
from fprune.errors import ModelError

_SHARDED_MODULES = frozenset({"FullyShardedDataParallel", "FSDPModule", "XlaFullyShardedDataParallel"})
_SHARDED_TENSORS = frozenset({"DTensor", "ShardedTensor", "FlatParameter"})
_WEIGHT_HOOKS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}


def unwrapped(net: object) -> nn.Module:
    """Look through `torch.compile` and DistributedDataParallel.

    Examples:
        >>> unwrapped(nn.Linear)
        Traceback (most recent call last):
        ...
        fprune.errors.ModelError: expected a module, got the class Linear
        hint: make an instance: Linear(...)

    Raises:
        ModelError: Not a module.
    """
    if isinstance(net, type):
        raise ModelError(
            f"expected a module, got the class {net.__name__}", hint=f"make an instance: {net.__name__}(...)"
        )
    if not isinstance(net, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(net).__name__}", hint="pass the network itself")
    inner = _compiled(net) or (vars(net)["_modules"]["module"] if _kinds(net) & {"DistributedDataParallel"} else None)
    return net if inner is None else unwrapped(inner)


def check(net: nn.Module) -> None:
    """Refuse what cannot be run functionally or copied faithfully.

    Raises:
        ModelError: Names the submodule or tensor, and says what to do first.
    """
    for path, module in named_modules(net):
        problem = _module_problem(module, bool(path))
        if problem is not None:
            found, hint = problem
            raise ModelError(f"{repr(path) if path else 'the model'} ({type(module).__name__}): {found}", hint=hint)
    for name, tensor in named_tensors(net).items():
        problem = _tensor_problem(tensor)
        if problem is not None:
            found, hint = problem
            raise ModelError(f"{name!r}: {found}", hint=hint)


def _kinds(module: nn.Module) -> frozenset[str]:
    # by name: importing torch.distributed or torch._dynamo only to ask is slow, and not every build has them
    return frozenset(cls.__name__ for cls in type(module).__mro__)


def _compiled(module: nn.Module) -> nn.Module | None:
    return vars(module)["_modules"].get("_orig_mod") if "OptimizedModule" in _kinds(module) else None


def _module_problem(module: nn.Module, nested: bool) -> tuple[str, str] | None:
    kinds = _kinds(module)
    homes = {cls.__module__.split(".")[0] for cls in type(module).__mro__}
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module has no Python code to keep", "pass the module that was scripted or traced"
    if kinds & _SHARDED_MODULES:
        return "its parameters are sharded by FSDP", "prune the plain model, then wrap the result with FSDP"
    if "DataParallel" in kinds:
        return "replicas of DataParallel cannot be called functionally", "pass model.module"
    if nested and (_compiled(module) is not None or "DistributedDataParallel" in kinds):
        return "a wrapper inside the model", "take the inner module out, prune, then wrap or compile the result"
    if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        return "it is quantized", "prune the float model, then quantize the result"
    if hasattr(module, "_nni_wrapper") or "nni" in homes:
        return "it is wrapped by another pruning library", "unwrap the model first"
    return _reparametrized(module)


def _reparametrized(module: nn.Module) -> tuple[str, str] | None:
    hooks: list[type] = [type(hook) for hook in vars(module)["_forward_pre_hooks"].values()]
    own = {*vars(module)["_parameters"], *vars(module)["_buffers"]}
    pruned = sorted(name for name in own if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in own)
    norms = [_WEIGHT_HOOKS[hook.__name__] for hook in hooks if hook.__name__ in _WEIGHT_HOOKS]
    if pruned or any(issubclass(hook, BasePruningMethod) for hook in hooks):
        name = pruned[0].removesuffix("_orig") if pruned else "weight"
        return "it is already wrapped by torch.nn.utils.prune", f"call torch.nn.utils.prune.remove(module, {name!r})"
    if norms:
        return f"a hook computes its weight ({norms[0]})", f"call torch.nn.utils.remove_{norms[0]}(module) first"
    return None


def _tensor_problem(tensor: Tensor) -> tuple[str, str] | None:
    kind = type(tensor).__name__
    if is_lazy(tensor):
        return "its shape is not known yet (lazy module)", "run one forward pass first"
    if kind in _SHARDED_TENSORS or hasattr(tensor, "ds_id"):
        return f"it is sharded ({kind})", "prune the plain model, then shard the result"
    if kind == "FakeTensor" or tensor.is_meta:
        return "it has no data (meta or fake tensor)", "materialise first: load the weights on a real device"
    if tensor.is_quantized:
        return "it is quantized", "prune the float model, then quantize the result"
    if tensor.layout != torch.strided:
        return f"it is sparse ({tensor.layout})", "make it dense with .to_dense() first"
    if type(tensor) is not Tensor and nn.Parameter not in type(tensor).__mro__:
        return f"it is a tensor subclass ({kind})", "prune the plain model, then convert or quantize the result"
    return None


def copied(net: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep-copy a module, with `memo` saying what stands for its tensors.

    Raises:
        ModelError: Something in it cannot be copied; names the attribute.
    """
    try:
        return copy.deepcopy(net, dict(memo))
    except Exception as error:
        where = _culprit(net, memo)
        raise ModelError(
            f"{where}cannot be copied: {type(error).__name__}: {error}",
            hint="keep files, locks and the like out of the module, or give it a __deepcopy__",
        ) from error


def _culprit(net: nn.Module, memo: dict[int, Any]) -> str:
    for path, module in reversed(named_modules(net)):
        for key, value in vars(module).items():
            if key != "_modules":
                try:
                    copy.deepcopy(value, dict(memo))
                except Exception:
                    return f"{f'{path}.{key}' if path else key!r} "
    return f"{type(net).__name__} "
