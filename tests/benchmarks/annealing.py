"""What a candidate of a search costs besides pruning and scoring it: CPU milliseconds of one thread.

Run it as `OMP_NUM_THREADS=1 python tests/benchmarks/annealing.py`. A schedule is asked for its next goal as a run asks
it, and the goal's config is resolved on the model, as the run does once a round. The best of three repetitions.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fprune import Config, Model, Report, Schedule, amc, annealing, evolve, netadapt
from fprune.setting import Setting


class Chain(nn.Module):
    """Pairs of convolutions beside a shortcut, so that half of the layers are coupled."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(32, 16 + 4 * (i % 5), 1) for i in range(layers // 2))
        self.outer = nn.ModuleList(nn.Conv2d(conv.out_channels, 32, 3, padding=1) for conv in self.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        return x.mean((1, 2, 3))


def cost(schedule: Schedule, model: Model, setting: Setting, target: Config, rounds: int = 17) -> tuple[float, float]:
    """Milliseconds for a goal, and for resolving its config."""
    live = schedule.live(setting)
    reports: list[Report] = []
    asked = resolved = 0.0
    for index in range(rounds):
        begun = time.process_time()
        goal = live(target, reports)
        asked += time.process_time() - begun
        if goal is None:
            break
        begun = time.process_time()
        goal.config.resolve(model)
        resolved += time.process_time() - begun
        reports.append(Report(index, goal, float(torch.rand(()))))
    return 1e3 * asked / len(reports), 1e3 * resolved / len(reports)


def main() -> None:
    torch.set_num_threads(1)
    target = Config([{"total_sparsity": 0.5}])
    searches = [annealing(), evolve(), netadapt(10), amc(17, warmup=17), amc(17, warmup=1)]
    print(f"{'layers':>6} {'groups':>9} {'search':24} {'ms a goal':>10} {'ms to resolve':>14}")
    for layers in (20, 40, 60):
        net = Chain(layers)
        model = Model.from_module(net)
        for what, inputs in (("layers", None), ("coupled", (torch.ones(1, 3, 8, 8),))):
            setting = Setting.of(net, target, example_inputs=inputs)
            for schedule in searches:
                goal, resolve = (
                    min(pair) for pair in zip(*(cost(schedule, model, setting, target) for _ in range(3)), strict=True)
                )
                print(f"{layers:6} {what:>9} {schedule!r:24} {goal:10.2f} {resolve:14.2f}")


if __name__ == "__main__":
    main()
