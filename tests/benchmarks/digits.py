"""Three pipelines on scikit-learn's digits, three seeds each: python tests/benchmarks/digits.py

    iterative       prune, speed up, train and measure in every round
    lottery_ticket  train, prune single weights, go back to the first weights; the ticket is then trained once
    rewound_agp     prune, train, go back to the first weights; the last result is then compacted and trained once

Dense, ticket and rewound networks train equally long, from the same initial weights.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fprune import (
    Pipeline,
    TaskResult,
    agp,
    dependency_aware,
    evaluate,
    finetune,
    l1,
    level,
    lottery,
    reset_weight,
    speed_up,
)
from fprune.demo import DENSE_EPOCHS, Network, accuracy, difference, digits, learn, masked, train


def fully(module: nn.Module) -> None:
    """Train as long as the dense network was."""
    learn(module, range(DENSE_EPOCHS), rate=0.1)


def nothing(result: TaskResult) -> TaskResult:
    return result


PIPELINES: dict[str, tuple[Callable[[int], Pipeline], Callable[[TaskResult], TaskResult], bool]] = {
    "iterative": (
        lambda n: agp(n) | l1(dependency_aware) | speed_up() | finetune(train) | evaluate(accuracy),
        nothing,
        True,
    ),
    "lottery_ticket": (
        lambda n: lottery(n) | finetune(train) | level() | reset_weight(),
        finetune(fully) | evaluate(accuracy),
        False,
    ),
    "rewound_agp": (
        lambda n: agp(n) | l1(dependency_aware) | finetune(train) | reset_weight(),
        speed_up() | finetune(fully) | evaluate(accuracy),
        False,
    ),
}


def networks(seed: int) -> tuple[nn.Module, nn.Module]:
    """The same network before and after training."""
    torch.manual_seed(seed)
    first = Network()
    trained = Network()
    trained.load_state_dict(first.state_dict())
    fully(trained)
    return first, trained


def row(name: str, seed: int, rounds: int, sparsity: float) -> dict[str, Any]:
    build, afterwards, from_trained = PIPELINES[name]
    start = time.perf_counter()
    first, trained = networks(seed)
    config = [{"op_types": ["Conv2d"], "sparsity": sparsity}]
    inputs = digits().test_images[:2]
    result = build(rounds).run(trained if from_trained else first, config, example_inputs=inputs, seed=seed)
    result = afterwards(result)
    report = result.report
    realised = report.elements if name == "lottery_ticket" else report.channels
    return {
        "dense": accuracy(trained),
        "pruned": accuracy(result.module()),
        "removed": (sum(r.removed for r in realised.values()), sum(r.total for r in realised.values())),
        "exact": all(r.removed == int(sparsity * r.total + 1e-9) for r in realised.values()),
        "params": result.model.num_params,
        "difference": difference(masked(result), result.module()),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PIPELINES)}; all by default")
    chosen = parser.parse_args()
    print(
        f"{'pipeline':16}{'seed':>5}{'dense':>9}{'pruned':>9}{'lost':>8}{'removed':>16}{'exact':>7}{'parameters':>12}",
        end="",
    )
    print(f"{'masked-compact':>16}{'s':>7}")
    for name in chosen.names or PIPELINES:
        rows = [row(name, seed, chosen.rounds, chosen.sparsity) for seed in range(chosen.seeds)]
        for seed, r in enumerate(rows):
            removed = f"{r['removed'][0]:,}/{r['removed'][1]:,}"
            print(
                f"{name:16}{seed:5}{r['dense']:9.2%}{r['pruned']:9.2%}{r['dense'] - r['pruned']:8.2%}{removed:>16}",
                end="",
            )
            print(f"{'yes' if r['exact'] else 'no':>7}{r['params']:12,}{r['difference']:16.1e}{r['seconds']:7.1f}")
        dense, pruned = (statistics.mean(r[key] for r in rows) for key in ("dense", "pruned"))
        print(f"{name:16}{'mean':>5}{dense:9.2%}{pruned:9.2%}{dense - pruned:8.2%}")


if __name__ == "__main__":
    main()
