"""What hypothesis loads where fprune is installed: `st.from_type` is told of fprune's types when fprune is imported.

Hypothesis loads this file when it is imported itself. To register strategies then would be to import torch for every
user of hypothesis who happens to have fprune, so it waits for the import of fprune, which is watched for by a finder on
`sys.meta_path`; that finds nothing itself and is gone after the first import of fprune.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Registering(Loader):
    """A loader that registers fprune's types after the package was loaded by the usual one."""

    def __init__(self, usual: Loader) -> None:
        self.usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the usual loader does."""
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load the package, with no trace of this loader left in it, and register."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.usual
        module.__loader__ = self.usual
        self.usual.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watching)]
        register()


class _Watching(MetaPathFinder):
    """Waits for the import of fprune."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find for fprune, with a loader that registers; nothing for other names."""
        if fullname != "fprune":
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Watching))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


def register() -> None:
    """Import the strategies, which registers them."""
    import fprune.strategies  # noqa: F401


if "fprune" in sys.modules:
    register()
else:
    sys.meta_path.insert(0, _Watching())
