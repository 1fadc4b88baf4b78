"""How much `import fprune` adds to `import torch`: python tests/benchmarks/import_time.py

Reports only. A timed assertion would fail on a busy machine and say nothing about the code.
"""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# As a user's second import: with the compiled files that the first one left.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(statement: str) -> float:
    """CPU seconds of a fresh interpreter; other work on the machine does not count."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start = used()
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, env=ENVIRONMENT, check=True)
    return used() - start


def main(repeats: int = 7) -> None:
    seconds("import torch, fprune")
    pairs = [(seconds("import torch"), seconds("import torch, fprune")) for _ in range(repeats)]
    torch, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = statistics.median(b - a for a, b in pairs)
    print(f"import torch          {torch:6.2f} CPU s")
    print(f"import torch, fprune  {both:6.2f} CPU s")
    print(f"added, median of {repeats}    {added:6.2f} CPU s   (aim: at most 0.25 s)")


if __name__ == "__main__":
    main()
