"""What decides the last bits of a run besides its inputs: versions, machine, threads, device, settings."""

import platform
import sys
from collections.abc import Mapping
from typing import Any, final

import attrs
import torch

from fprune.errors import CheckpointError, close_matches

__all__ = ["Environment", "environment"]


@final
@attrs.frozen
class Environment:
    """Where a run computes, as far as another place could give other bits.

    Examples:
        >>> here = environment()
        >>> here == Environment.from_dict(here.to_dict())
        True
        >>> there = attrs.evolve(here, torch="2.9.0")
        >>> there.differences(attrs.evolve(here, torch="2.10.0"))
        ("torch: '2.9.0' then, '2.10.0' now",)

    Args:
        fprune: version of the library.
        python: version of the interpreter.
        torch: version of torch, with its local part, such as `2.13.0+cpu`.
        build: the commit torch was built from.
        cuda: version of CUDA torch was built for; empty when it was built without.
        machine: architecture and vector instructions, such as `x86_64 AVX512`.
        threads: threads that one operator may use.
        device: kind of the device, with its model where torch tells it.
        dtype: the default floating type.
        deterministic: whether torch refuses (`on`), reports (`warn`) or allows (`off`) operators without a fixed order.
        matmul: precision of float32 products.
        cudnn: how cuDNN chooses algorithms: the flags that are set, joined by spaces.
    """

    fprune: str
    python: str
    torch: str
    build: str
    cuda: str
    machine: str
    threads: int
    device: str
    dtype: str
    deterministic: str
    matmul: str
    cudnn: str

    def differences(self, now: "Environment") -> tuple[str, ...]:
        """Name what is not the same in two environments.

        Args:
            now: the environment to compare with; this one is the earlier.

        Returns:
            One text for each field that differs, with both values; empty when results agree bit for bit.
        """
        then, here = self.to_dict(), now.to_dict()
        return tuple(f"{name}: {then[name]!r} then, {here[name]!r} now" for name in then if then[name] != here[name])

    def to_dict(self) -> dict[str, str | int]:
        """Give the fields as plain JSON values."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> "Environment":
        """Read what `to_dict` gave.

        Args:
            fields: field name -> value, as JSON has it.

        Returns:
            The environment.

        Raises:
            CheckpointError: a field is missing, unknown, or of another type.
        """
        kinds = {field.name: field.type for field in attrs.fields(cls)}
        unknown = sorted(set(fields) - set(kinds))
        if unknown:
            raise CheckpointError(
                f"environment: no field {unknown[0]!r}",
                hint=close_matches(unknown[0], kinds) or f"the fields are {', '.join(kinds)}",
            )
        for name, kind in kinds.items():
            if type(fields.get(name)) is not kind:
                found = f"{fields[name]!r}" if name in fields else "nothing"
                raise CheckpointError(
                    f"environment: {name}: expected {getattr(kind, '__name__', kind)}, got {found}",
                    hint="the record is damaged; go back to a copy of the run",
                )
        values: dict[str, Any] = dict(fields)
        return cls(**values)


def environment(device: torch.device | str = "cpu") -> Environment:
    """Record where this process computes.

    Examples:
        >>> environment().device
        'cpu'
        >>> environment().threads == torch.get_num_threads()
        True

    Args:
        device: where the model's tensors are.

    Returns:
        The environment as it is now.
    """
    package: Any = sys.modules[__name__.partition(".")[0]]
    return Environment(
        fprune=package.__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        build=torch.version.git_version or "",
        cuda=torch.version.cuda or "",
        machine=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        threads=torch.get_num_threads(),
        device=_named(torch.device(device)),
        dtype=str(torch.get_default_dtype()).removeprefix("torch."),
        deterministic=_deterministic(),
        matmul=torch.get_float32_matmul_precision(),
        cudnn=" ".join(flag for flag in ("benchmark", "deterministic") if getattr(torch.backends.cudnn, flag)),
    )


def _named(device: torch.device) -> str:
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _deterministic() -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"
