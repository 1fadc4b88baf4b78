"""CPU seconds and peak memory of trace, prune and compact, beside Torch-Pruning on the same models, one thread.

    python tests/benchmarks/structure.py                  # every table, each job in a process of its own
    python tests/benchmarks/structure.py resnet50 vit_6   # some rows

Needs torchvision, transformers and `torch-pruning==1.6.1` (the column is empty without it). Both libraries remove half
of everything they can reach (channels, residual width, attention), by L1 norm, on one sample. CPU seconds, not wall
seconds: other work on the machine does not count. Memory is the peak of resident memory during the job, minus what was
resident before it. A small network goes through each library before the job, because torch loads some 800 modules the
first time a process runs anything on the meta device. A row `vit_n` is a narrow ViT of n blocks: how the time grows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tests.zoo.torchvision_ops  # noqa: F401  a torchvision wheel need not fit the build of torch
from tests.benchmarks.pipeline import peak, resident, warm_up

TIMEOUT = 120


class Logits(nn.Module):
    """A transformer from a library of models, reduced to its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(ids).logits


def vision(name: str, **settings: Any) -> tuple[nn.Module, Tensor]:
    import torchvision

    return getattr(torchvision.models, name)(weights=None, **settings), torch.randn(1, 3, 224, 224)


def narrow_vit(blocks: int) -> tuple[nn.Module, Tensor]:
    from torchvision.models import VisionTransformer

    return VisionTransformer(224, 16, blocks, 3, 192, 768), torch.randn(1, 3, 224, 224)


def bert() -> tuple[nn.Module, Tensor]:
    from transformers import BertConfig, BertForSequenceClassification

    return Logits(BertForSequenceClassification(BertConfig())), torch.randint(0, 1000, (1, 64))


def llama() -> tuple[nn.Module, Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=8000,
        use_cache=False,
    )
    return Logits(LlamaForCausalLM(config)), torch.randint(0, 1000, (1, 64))


# name -> how it is made, and the aim in CPU seconds
MODELS: Mapping[str, tuple[Callable[[], tuple[nn.Module, Tensor]], str]] = {
    **{name: (lambda name=name: vision(name), aim) for name, aim in (("resnet50", "0.6"), ("mobilenet_v2", "0.4"))},
    "densenet121": (lambda: vision("densenet121"), "2"),
    "vit_b_16": (lambda: vision("vit_b_16"), "1.2"),
    "swin_t": (lambda: vision("swin_t"), ""),
    "bert_base": (bert, ""),
    "llama": (llama, ""),
    **{f"vit_{blocks}": (lambda blocks=blocks: narrow_vit(blocks), "") for blocks in (6, 12, 24, 48)},
}


def parameters(net: Any) -> int:
    return sum(value.numel() for value in net.parameters())


def pruned(model: Any, structure: Any, fraction: float) -> Any:
    """Mask a fraction of every family, by the L1 norm of everything that belongs to a unit."""
    from fprune import Masks

    masks: dict[str, Tensor] = {}
    with torch.no_grad():
        for family in structure.families:
            score = torch.zeros(len(family))
            parts = [part for part in family.slices if part.tensor in model]
            for part in parts:
                index = torch.from_numpy(part.index)
                weight = model[part.tensor]
                score += weight.abs().movedim(part.dim, 0).reshape(weight.shape[part.dim], -1).sum(1)[index].sum(1)
            gone = score.argsort()[: int(fraction * len(family))]
            for part in parts:
                shape = model[part.tensor].shape
                kept = torch.ones(shape[part.dim], dtype=torch.bool)
                kept[torch.from_numpy(part.index)[gone].flatten()] = False
                kept = kept.view([-1 if d == part.dim else 1 for d in range(len(shape))])
                masks[part.tensor] = masks[part.tensor] & kept if part.tensor in masks else kept
    return Masks(masks)


def ours(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """Trace, prune, compact; then once more on what is left, as a later round does."""
    import fprune

    clock = Clock()
    model = fprune.Model.from_module(net)
    structure = fprune.structure.trace(model, x)
    clock.lap("trace")
    masks = pruned(model, structure, 0.5)
    clock.lap("prune")
    done = fprune.compact(model, masks, structure)
    clock.lap("compact")
    whole = clock.result()
    masks = pruned(done.model, done.structure, 0.25)
    again = Clock()
    fprune.compact(done.model, masks, done.structure)
    again.lap("later round")
    left = sum(value.numel() for value in done.model.values())
    return {**whole, **again.laps, "left": left, "style": done.report.style}


def theirs(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """The same with Torch-Pruning, by the recipes that its examples have for these models."""
    import torch_pruning as tp

    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    settings: dict[str, Any] = {"ignored_layers": [last], "pruning_ratio": 0.5, "num_heads": heads(net)}
    if hasattr(net, "class_token"):
        settings |= {
            "unwrapped_parameters": [(net.class_token, 2), (net.encoder.pos_embedding, 2)],
            "round_to": net.encoder.layers[0].num_heads,
        }
    clock = Clock()
    pruner = tp.pruner.BasePruner(net, x, tp.importance.MagnitudeImportance(p=1), **settings)
    clock.lap("trace")
    pruner.step()
    clock.lap("compact")
    return {**clock.result(), "left": parameters(net)}


def heads(net: nn.Module) -> dict[nn.Module, int]:
    """Projections -> number of heads, which Torch-Pruning has to be told."""
    out: dict[nn.Module, int] = {}
    for module in net.modules():
        if hasattr(module, "query") and hasattr(module, "num_attention_heads"):
            out |= {getattr(module, name): module.num_attention_heads for name in ("query", "key", "value")}
        elif hasattr(module, "q_proj") and hasattr(module, "head_dim"):
            out |= {
                getattr(module, f"{k}_proj"): getattr(module, f"{k}_proj").out_features // module.head_dim
                for k in "qkv"
            }
    return out


class Clock:
    """CPU seconds by step, and the peak of memory above what was resident."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # starts the peak afresh, so that it is the job's own
        self.before, self.laps, self.last = resident(), {}, time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name], self.last = now - self.last, now

    def result(self) -> dict[str, Any]:
        return {**self.laps, "cpu": sum(self.laps.values()), "memory": max(0, peak() - self.before)}


LIBRARIES = {"fprune": ours, "torch-pruning": theirs}


def measure(library: str, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if library == "fprune":
        warm_up()
    else:
        theirs(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), torch.ones(1, 3, 8, 8))
    net, x = MODELS[name][0]()
    net = net.eval()
    size = parameters(net)
    return {**LIBRARIES[library](net, x), "of": size}


def in_child(library: str, name: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), name, "--child", library]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"problem": f"no end in {TIMEOUT} s"}
    if done.returncode:
        return {"problem": done.stderr.strip().splitlines()[-1][:60]}
    return json.loads(done.stdout.splitlines()[-1])


def row(library: str, name: str, repeats: int) -> list[str]:
    runs = [in_child(library, name)]
    if "problem" in runs[0]:
        return [name, library, runs[0]["problem"]]
    runs += [in_child(library, name) for _ in range(repeats - 1)]
    middle = {key: statistics.median(run[key] for run in runs) for key, v in runs[0].items() if not isinstance(v, str)}
    steps = [
        f"{middle[key]:.2f}" if key in middle else "" for key in ("cpu", "trace", "prune", "compact", "later round")
    ]
    memory = f"{middle['memory'] / 1e6:.0f} MB"
    return [name, library, *steps, memory, f"{middle['left'] / middle['of']:.1%}", runs[0].get("style", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[], help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each job; the median is shown")
    parser.add_argument("--only", choices=LIBRARIES, help="one library")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.models) - set(MODELS)):
        parser.error(f"no model {unknown}; there are {sorted(MODELS)}")
    if chosen.child:
        print(json.dumps(measure(chosen.child, chosen.models[0])))
        return
    header = ("model", "library", "CPU s", "trace", "prune", "compact", "later", "memory", "left", "style")
    line = "{:14}{:15}{:>8}{:>8}{:>8}{:>9}{:>8}{:>10}{:>8}  {}"
    print(line.format(*header), "-" * 96, sep="\n")
    for name in chosen.models or MODELS:
        for library in [chosen.only] if chosen.only else LIBRARIES:
            cells = row(library, name, chosen.repeats)
            print(line.format(*cells) if len(cells) > 3 else f"{cells[0]:14}{cells[1]:15}  {cells[2]}", flush=True)


if __name__ == "__main__":
    main()
