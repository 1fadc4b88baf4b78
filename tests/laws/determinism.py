"""Every public piece on one small network, and what came of it as digests; in any order of whatever has no order.

python -m tests.laws.determinism 3     # with everything that has no order shuffled by seed 3; 0 leaves it as it is
"""

import json
import random
import sys
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import fprune
from fprune import Pipeline, TaskResult
from fprune.errors import TiedScores
from fprune.tree import digest, generator
from tests.laws import pieces

V = TypeVar("V")
PIPELINES: Mapping[str, str] = {
    "coupled": "linear(2) | l1(dependency_aware) | finetune(train) | evaluate(score)",
    "compacted": "agp(2) | l2(dependency_aware) | speed_up() | finetune(train)",
    "isomorphic": "linear(1) | fpgm(isomorphic)",
    "together": "linear(2) | level(globally) | finetune(train) | evaluate(score)",
    "lamp": "linear(1) | level(lamp)",
    "rewound": "lottery(2) | finetune(train) | level() | reset_weight()",
    "owl": "one_shot() | level(owl(m=1.5, lam=0.1))",
}
"""Further pipelines, by what they are about."""


def shuffled(values: Mapping[str, V], seed: int, what: str) -> dict[str, V]:
    """The same entries in another order; as they are for the seed 0."""
    names = list(values)
    if seed:
        random.Random(f"{seed} {what}").shuffle(names)
    return {name: values[name] for name in names}


class Meeting(nn.Module):
    """Four convolutions whose outputs are added: floats that no sum holds exactly, and in two of them many ties."""

    def __init__(self, order: int) -> None:
        super().__init__()
        made: dict[str, nn.Module] = {
            "stem": nn.Conv2d(4, 6, 3, padding=1),
            "left": nn.Conv2d(6, 6, 3, padding=1),
            "middle": nn.Conv2d(6, 6, 1),
            "right": nn.Conv2d(6, 6, 5, padding=2, bias=False),
            "norm": nn.BatchNorm2d(6),
            "head": nn.Linear(6, 4),
        }
        for name, child in shuffled(made, order, "children").items():
            self.add_module(name, child)
        values = {name: torch.randn(p.shape, generator=generator(0, name)) for name, p in self.named_parameters()}
        values |= {name: (2 * values[name]).round() / 2 for name in ("left.weight", "middle.weight")}
        self.load_state_dict(shuffled({**self.state_dict(), **values}, order, "state"))

    def forward(self, x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        stem = torch.relu(self.stem(x)) * scale
        met = self.norm(stem + self.left(stem) + self.middle(stem) + self.right(stem))
        return self.head(torch.relu(met).mean((2, 3)))


def in_order(name: str) -> bool:
    """Whether the order of the modules is part of what a pipeline does: searches go through the layers in turn."""
    return pipeline(name).schedule.reads_setting


def arguments(order: int, modules: int) -> tuple[nn.Module, list[dict[str, Any]], dict[str, Any]]:
    """A network, a config and keyword arguments for `run`; the modules are in an order of their own."""
    rule = {"op_types": ["Conv2d"], "op_names": ["stem", "left", "middle", "right"], "sparsity": 0.5}
    inputs = {"x": torch.ones(1, 4, 8, 8), "scale": torch.ones(())}
    masks = {"head.weight": torch.arange(24).reshape(4, 6) % 5 > 0, "stem.bias": torch.arange(6) > 0}
    options = {
        "example_inputs": shuffled(inputs, order, "inputs"),
        "masks": shuffled(masks, order, "masks"),
        "seed": 7,
    }
    return Meeting(modules), [shuffled(rule, order, "rule")], options


def pipeline(name: str, order: int = 0) -> Pipeline:
    """A pipeline of the table, or a short one with a public piece in it."""
    if name in PIPELINES:
        return eval(PIPELINES[name], {**vars(fprune), "train": pieces.train, "score": pieces.score})
    known = {**pieces.SMALL, "activation": "relu"}
    small = {option: known[option] for option in pieces.options(name) if option in known}
    return pieces.pipeline(name, **shuffled(small, order, "options"))


def told(result: TaskResult) -> str:
    """A digest of everything that a result says."""
    parts = {
        "params": dict(result.model.params),
        "buffers": dict(result.model.buffers),
        "masks": dict(result.masks),
        "lineage": {name: list(kept) for name, kept in result.lineage.kept.items()},
        "score": result.score,
        "metrics": dict(result.metrics),
        "reports": [repr((r.index, r.goal, r.score, r.channels, r.elements)) for r in (*result.history, result.report)],
    }
    return digest(parts)


def ran(name: str, order: int = 0, **options: Any) -> str:
    """The digest of a pipeline's result."""
    net, config, given = arguments(order, 0 if in_order(name) else order)
    return told(pipeline(name, order).run(net, config, **given, **options))


def names() -> list[str]:
    """All pipelines."""
    return [*PIPELINES, *pieces.FACTORIES]


if __name__ == "__main__":
    warnings.simplefilter("ignore", TiedScores)
    order = int(sys.argv[1])
    random.seed(order), torch.manual_seed(order)  # what the process has drawn plays no part
    print(json.dumps({name: ran(name, order) for name in shuffled(dict.fromkeys(names()), order, "names")}))
