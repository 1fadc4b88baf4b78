"""A file system that loses power: what was not forced to the disk may be gone, in part or whole, as the system likes.

It listens to the calls of a real run and keeps a model beside it. A file's bytes are safe once the file was forced; a
name in a folder, made or changed, once that folder was. What is not safe yet is lost or not as an adversary draws:
names in the order in which they were made, bytes from some point on, or as zeros.
"""

import os
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field


@define
class Node:
    """A file or a folder, apart from its name."""

    folder: bool
    data: bytes = b""
    safe: bytes = b""
    names: dict[str, "Node"] = field(factory=dict)
    pending: list[tuple[str, str, "Node"]] = field(factory=list)  # "put" or "take", name, node


class Power:
    """The event of a layer: follows every call below one folder, and can tell what a power failure would leave."""

    def __init__(self, root: Path) -> None:
        self.root, self.tree, self.files = root, Node(True), dict[int, Node]()

    def node(self, path: Any) -> Node:
        """The node with a name, as the running system sees it."""
        found = self.tree
        for part in Path(path).relative_to(self.root).parts:
            found = self._now(found)[part]
        return found

    def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
        return getattr(self, f"_{name}", lambda *_: None)(*args)

    @staticmethod
    def _now(node: Node) -> dict[str, Node]:
        return _after(node, len(node.pending))

    def _change(self, kind: str, path: Any, node: Node) -> None:
        self.node(Path(path).parent).pending.append((kind, Path(path).name, node))

    def _mkdir(self, path: Any, *_: Any) -> None:
        self._change("put", path, Node(True))

    def _open(self, path: Any, flags: int = 0, *rest: Any) -> Any:
        def instead() -> int:
            descriptor = os.open(path, flags, *rest)
            if flags & os.O_CREAT:
                self._change("put", path, Node(False))
            self.files[descriptor] = self.node(path)
            return descriptor

        return instead

    def _write(self, descriptor: int, piece: Any) -> None:
        self.files[descriptor].data += bytes(piece)

    def _fsync(self, descriptor: int) -> None:
        node = self.files[descriptor]
        node.safe = node.data
        node.names, node.pending = self._now(node), []

    def _rename(self, source: Any, target: Any) -> None:
        self.node(Path(source).parent).pending.append(
            ("move", f"{Path(source).name}/{Path(target).name}", self.node(source))
        )

    def _rmtree(self, path: Any, **_: Any) -> None:
        self._change("take", path, self.node(path))

    def left(self, target: Path, how: str, random: Random) -> None:
        """Write down what a power failure leaves now.

        Args:
            target: a folder that is not there yet.
            how: "least" for nothing but what is safe, "names" for all names and only the safe bytes, "drawn" for any.
            random: draws.
        """
        self._restore(self.tree, target, how, random)

    def _restore(self, node: Node, target: Path, how: str, random: Random) -> None:
        if not node.folder:
            target.write_bytes(_bytes(node, how, random))
            return
        target.mkdir()
        n = {"least": 0, "names": len(node.pending)}.get(how, random.randint(0, len(node.pending)))
        for name, inner in _after(node, n).items():
            self._restore(inner, target / name, how, random)


def _after(node: Node, n: int) -> dict[str, Node]:
    """The names in a folder after the first so many of its changes."""
    names = dict(node.names)
    for kind, name, inner in node.pending[:n]:
        if kind == "put":
            names[name] = inner
        elif kind == "take":
            names.pop(name, None)
        else:
            source, target = name.split("/")
            names.pop(source, None)
            names[target] = inner
    return names


def _bytes(node: Node, how: str, random: Random) -> bytes:
    if how != "drawn" or node.data == node.safe:
        return node.safe
    kept = random.randint(len(node.safe), len(node.data))
    return random.choice([node.data[:kept], node.data[:kept] + bytes(len(node.data) - kept), node.data])
