"""The command line: `python -m fprune demo`, `inspect RUN` and `diff A B`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fprune import demo
from fprune.checkpoint.layout import RUN
from fprune.errors import CheckpointError
from fprune.store.diff import diff_runs
from fprune.store.inspect import inspect_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, run the command they name, and return its exit code."""
    chosen = _parser().parse_args(arguments)
    return chosen.run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fprune", description="Functional pruning for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    job = commands.add_parser(
        "demo",
        help="train a small network on digits, prune its channels, and compare",
        description="Train a small residual network on scikit-learn's digits, prune it, and compare. About a minute.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    job.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the pipeline")
    job.add_argument("--rounds", type=int, default=10, help="of pruning and training")
    job.add_argument("--sparsity", type=float, default=0.7, help="fraction of the channels to remove, in [0, 1)")
    job.add_argument("--epochs", type=int, default=demo.DENSE_EPOCHS, help="of training before the pruning")
    job.set_defaults(run=_demo)
    look = commands.add_parser(
        "inspect",
        help="what is in a run's folder, and whether it is as it was written",
        description="Show the rounds of a run and compare every file with its digest. The exit code is 0 when all is "
        "well, 1 when something is damaged, and 2 when there is no run.",
    )
    look.add_argument("folder", metavar="RUN", help="what was given as store=, or to result.save")
    look.set_defaults(run=_inspect)
    compare = commands.add_parser(
        "diff",
        help="how two runs differ",
        description="Compare what two runs were asked, where they ran, and what came of them. The exit code is 0 when "
        "they are equal, 1 when they differ, and 2 when one of them cannot be read.",
    )
    compare.add_argument("a", metavar="A", help="a run, or one of its rounds: runs/a/it-000003")
    compare.add_argument("b", metavar="B", help="likewise")
    compare.set_defaults(run=_diff)
    return parser


def _inspect(chosen: argparse.Namespace) -> int:
    try:
        found = inspect_run(chosen.folder)
    except CheckpointError as error:
        return _refused(error, 1 if (Path(chosen.folder) / RUN).exists() else 2)
    print(found)
    return 0 if found.ok else 1


def _diff(chosen: argparse.Namespace) -> int:
    try:
        found = diff_runs(chosen.a, chosen.b)
    except CheckpointError as error:
        return _refused(error, 2)
    print(found)
    return 0 if found.equal else 1


def _refused(error: CheckpointError, code: int) -> int:
    print(error, file=sys.stderr)
    return code


def _demo(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(1)  # on images this small a second thread waits more than it works
    print(f"{demo.recipe(chosen.rounds)}\n")
    outcome = demo.run(chosen.seed, chosen.rounds, chosen.sparsity, chosen.epochs)
    channels = outcome.result.report.channels.values()
    removed, total = sum(c.removed for c in channels), sum(c.total for c in channels)
    print(f"\n{outcome.table()}\n")
    print(
        f"channels removed: {removed} of {total} ({removed / total:.1%}; asked for {chosen.sparsity:.1%} of each layer)"
    )
    print(f"largest difference between pruned and compact, in float64: {outcome.difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
