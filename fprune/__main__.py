"""The command line: `python -m fprune demo`."""

import argparse
from collections.abc import Sequence

import torch

from fprune import demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and run the command they name."""
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
    chosen = parser.parse_args(arguments)

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


if __name__ == "__main__":
    main()
