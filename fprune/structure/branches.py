"""Run a model as if a choice that it makes from its inputs had come out the other way."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from fprune.structure.capture import BRANCHES, site


class Turned(TorchDispatchMode):
    """The first choice made at a line of the user's code comes out the other way.

    Args:
        at: `file:line`.
    """

    def __init__(self, at: str) -> None:
        """Nothing chosen yet."""
        super().__init__()
        self._pending = [at]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let the call happen; turn its answer if it is the one."""
        del types
        out = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[1] in BRANCHES and self._pending and site() == self._pending[0]:
            self._pending.clear()
            return not out
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler to keep it out."""
        return False
