"""`import fprune` costs little: nothing that only some users need comes along."""

import subprocess
import sys

from tests.project.files import ROOT

HEAVY = (
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "hypothesis",
    "pytest",
    "tqdm",
    "IPython",
    "nbformat",
    "torchvision",
)


def test_import_brings_nothing_heavy() -> None:
    # What torch itself imports is not ours to judge, so only what comes after it counts.
    script = "import sys, torch; before = set(sys.modules); import fprune; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`import fprune` fails:\n{done.stderr}"
    brought = sorted({name.split(".")[0] for name in done.stdout.split()} & set(HEAVY))
    assert not brought, f"`import fprune` imports {brought}; import them inside the function that needs them"
    own = {"fprune.strategies", "fprune.testing"} & set(done.stdout.split())
    assert not own, f"`import fprune` imports {own}, which need hypothesis"


def test_import_leaves_torch_as_it_was() -> None:
    script = """
import random, numpy, torch
state = lambda: (torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
                 torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
before = state()
import fprune
assert state() == before, "importing fprune changed a random generator, the thread count, the dtype or the grad mode"
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
