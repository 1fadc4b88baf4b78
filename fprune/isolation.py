"""Run a user's function without letting it change the random generators and global settings of the process."""

import random
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch

Restore = Callable[[], object]

_TURN = threading.RLock()


def _generators(reseeded: bool) -> list[Restore]:
    """What puts every random generator back to where it is now."""
    cpu, python = torch.get_rng_state(), random.getstate()
    restores: list[Restore] = [lambda: torch.set_rng_state(cpu), lambda: random.setstate(python)]
    numpy: Any = getattr(sys.modules.get("numpy"), "random", None)  # nobody imported it: nothing to protect
    if numpy is not None:
        state = numpy.get_state()
        restores.append(lambda: numpy.set_state(state))
    if torch.cuda.is_initialized():
        cuda = torch.cuda.get_rng_state_all()
        restores.append(lambda: torch.cuda.set_rng_state_all(cuda))
    elif reseeded:
        # Before CUDA starts, torch.manual_seed leaves a note for its generators. The caller's own note was the seed of
        # the CPU generator (or torch's default, which both share), so leaving that note again undoes ours.
        restores.append(lambda: torch.cuda.manual_seed_all(torch.initial_seed()))
    return restores


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(flags: tuple[bool, bool]) -> None:
    torch.backends.cudnn.set_flags(_benchmark=flags[0], _deterministic=flags[1], _fp32_precision=cast(Any, None))


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_determinism(flags: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


def _set_autocast(values: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled("cpu", values[0])
    torch.set_autocast_dtype("cpu", values[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_anomaly(flags: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(*flags)


def _mkldnn() -> bool:
    return torch.backends.mkldnn.enabled  # pyright: ignore[reportReturnType]  # a property of torch's module


def _set_mkldnn(enabled: bool) -> None:
    torch.backends.mkldnn.set_flags(enabled, _fp32_precision=cast(Any, None))


_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_determinism, _set_determinism),
    (_cudnn, _set_cudnn),
    (_mkldnn, _set_mkldnn),
    (_autocast, _set_autocast),
    (_anomaly, _set_anomaly),
)


def seed_all(seed: int) -> None:
    """Seed every random generator of the process; call it inside `isolated`."""
    torch.manual_seed(seed)  # CPU, and every accelerator now or when it starts
    random.seed(seed)
    numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
    if numpy is not None:
        numpy.seed(seed % 2**32)


@contextmanager
def isolated(seed: int | None = None) -> Generator[None]:
    """Restore the global random generators and settings on the way out, also after an exception.

    Covers the generators of torch (CPU, CUDA), `random` and, where it is already imported, numpy; the grad mode, the
    default dtype and device, the thread count, the matmul precision, autocast on the CPU, the determinism flags, and
    those of cuDNN, oneDNN and anomaly detection.

    Examples:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with isolated(seed=3):
        ...     a = torch.rand(2)
        >>> with isolated(seed=3):
        ...     b = torch.rand(2)
        >>> torch.equal(a, b), torch.equal(before, torch.get_rng_state())
        (True, True)

    Threads take turns: the generators and most settings are one for the process.

    Args:
        seed: seeds every generator on the way in; `None` leaves them running from where they are.
    """
    with _TURN:
        restores, before = _generators(seed is not None), settings()
        try:
            if seed is not None:
                seed_all(seed)
            yield
        finally:
            for restore in restores:
                restore()
            _set(before)


def settings() -> tuple[Any, ...]:
    """The global settings that `isolated` guards, to be taken to another process."""
    return tuple(read() for read, _ in _SWITCHES)


def _set(values: tuple[Any, ...]) -> None:
    for (read, write), value in zip(_SWITCHES, values, strict=True):
        if read() != value:
            write(value)


@contextmanager
def under(values: tuple[Any, ...]) -> Generator[None]:
    """Use the settings of another process; the own ones come back on the way out.

    A sum over two threads differs from that over one in its last bits, so a thread count matters as well.

    Examples:
        >>> import torch
        >>> with torch.no_grad():
        ...     elsewhere = settings()
        >>> with under(elsewhere):
        ...     torch.is_grad_enabled()
        False

    Args:
        values: what `settings` gave.
    """
    with isolated():
        _set(values)
        yield
